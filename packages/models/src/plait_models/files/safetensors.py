"""Safetensors files of a Hugging Face directory, whole or sharded."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from plait_kernels.errors import ModelError
from plait_models.files.opening import open_regular, read_json, shortened
from plait_models.files.source import FLOATING, Entry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import torch

_LFS_POINTER = b"version https://git-lfs"
_OTHER_FORMATS = {
    "consolidated.safetensors": "the format of Mistral's own code",
    "adapters.safetensors": "an adapter of mlx-lm",
    "adapter_model.safetensors": "an adapter of PEFT",
}


def _reservation(file: Path) -> str:
    if not file.is_file():
        return " (no regular file, or a link to nothing)"
    return f" ({_OTHER_FORMATS[file.name]})" if file.name in _OTHER_FORMATS else ""


def weight_files(root: Path) -> tuple[Path, ...]:
    """List the safetensors files of a model: ``model.safetensors``, or the shards of its index.

    Raises
    ------
    ModelError
        If there is neither, or a shard that the index names is missing.
    """
    whole, index = root / "model.safetensors", root / "model.safetensors.index.json"
    if whole.is_file():
        return (whole,)
    if not index.is_file():
        files = sorted(root.glob("*.safetensors"))[:8]
        found = ", ".join(f"{file.name}{_reservation(file)}" for file in files)
        message = (
            f"{root}: no model.safetensors and no model.safetensors.index.json; safetensors files "
            f"there: {found or 'none'}. Fetch the file, or the index with its shards"
        )
        raise ModelError(message)
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        message = f"{index}: 'weight_map' must name a shard for each tensor. Fetch the file again"
        raise ModelError(message)
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name:
            message = (
                f"{index}: 'weight_map' names the shard {shortened(name)}; allowed: the name of a "
                "file beside the index. Fetch the file again"
            )
            raise ModelError(message)
    shards = tuple(root / name for name in sorted(set(weight_map.values())))
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        message = (
            f"{root}: {len(missing)} of {len(shards)} shards are missing: "
            f"{', '.join(missing[:8])}. Complete the download"
        )
        raise ModelError(message)
    return shards


class SafetensorsWeights:
    """The tensors of one or more safetensors files, open as long as the context lasts.

    Parameters
    ----------
    origin : str
        The directory, for messages.
    paths : tuple[Path, ...]

    Raises
    ------
    ModelError
        On entering: if a file is damaged.
    """

    def __init__(self, origin: str, paths: tuple[Path, ...]) -> None:
        self.origin = origin
        self._paths = paths
        self._stack = ExitStack()
        self._file_of: dict[str, Any] = {}
        self._entries: dict[str, Entry] = {}

    def __enter__(self) -> SafetensorsWeights:
        with ExitStack() as opened:
            for path in self._paths:
                self._add(path, opened)
            self._stack = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file_of.clear()
        self._stack.close()

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every tensor, file after file."""
        return self._entries

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor."""
        tensor: torch.Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def _add(self, path: Path, opened: ExitStack) -> None:
        try:
            # A pipe in its place would be waited for.
            with open_regular(path) as start:
                is_pointer = start.read(len(_LFS_POINTER)) == _LFS_POINTER
            if is_pointer:
                message = "it is a pointer of Git LFS. Run git lfs pull there"
                raise ValueError(message)
            file = opened.enter_context(safe_open(str(path), framework="pt", device="cpu"))
        except (OSError, SafetensorError, ValueError) as error:
            message = f"{path}: not a whole safetensors file: {error}. Fetch the file again"
            raise ModelError(message) from error
        for name in file.keys():  # noqa: SIM118 (not a mapping: it cannot be iterated)
            view = file.get_slice(name)
            shape, dtype = tuple(view.get_shape()), str(view.get_dtype())
            nbytes = math.prod(shape) * FLOATING.get(dtype, 0)
            self._file_of[name] = file
            self._entries[name] = Entry(shape, nbytes, dtype)
