"""Tell what kind of model a path is, and read its config without its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plait_kernels.errors import ModelError
from plait_models.files.opening import read_json
from plait_models.hints import what_lies_there

if TYPE_CHECKING:
    from os import PathLike

    from plait_models.config import ModelConfig

LOAD_FORMATS = ("auto", "safetensors", "gguf", "dummy")


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies.

    Attributes
    ----------
    root : Path
        A directory with ``config.json``, or a GGUF file.
    format : str
        ``"safetensors"`` or ``"gguf"``.
    """

    root: Path
    format: str


def read_config(path: str | PathLike[str], load_format: str = "auto") -> ModelConfig:
    """Read the config of a model and none of its weights.

    Parameters
    ----------
    path : str | PathLike
        A Hugging Face directory, a GGUF file, or a directory that holds one GGUF file.
    load_format : str
        As in ``load``; ``"dummy"`` needs no weights to be there.

    Returns
    -------
    ModelConfig

    Raises
    ------
    ModelError
        If there is no model at ``path``, or not one that can be loaded exactly.
    """
    files = find_files(path, load_format)
    if files.format == "gguf":
        from plait_models.files.gguf import GgufFile

        return GgufFile(files.root).config()
    return read_hf_config(files.root)


def read_hf_config(root: Path) -> ModelConfig:
    """Read ``config.json`` of a Hugging Face directory."""
    from plait_models.hf_config import parse_hf_config

    path = root / "config.json"
    return parse_hf_config(read_json(path), str(path))


def find_files(path: str | PathLike[str], load_format: str) -> ModelFiles:
    """Find out what lies at ``path``.

    ``load_format`` is one of ``LOAD_FORMATS``; ``"auto"`` and ``"dummy"`` take what is there,
    safetensors first.
    """
    if load_format not in LOAD_FORMATS:
        message = (
            f"load_format is {load_format!r}; allowed: {', '.join(LOAD_FORMATS)}. Use 'auto' to "
            "take what is there"
        )
        raise ModelError(message)
    root = Path(path)
    if root.is_dir():
        found = _in_directory(root, load_format)
    elif root.exists():
        found = ModelFiles(root, "gguf") if root.suffix == ".gguf" else None
    else:
        message = (
            f"{root}: no such file or directory. Give a directory with config.json and "
            "safetensors files or a .gguf file; the engine also takes 'owner/repository' on the hub"
        )
        raise ModelError(message)
    if found is None or load_format not in ("auto", "dummy", found.format):
        raise ModelError(_nothing_there(root, load_format))
    return found


def _in_directory(root: Path, load_format: str) -> ModelFiles | None:
    has_config = (root / "config.json").is_file()
    if load_format == "dummy" and has_config:
        return ModelFiles(root, "safetensors")
    if load_format != "gguf" and has_config and any(root.glob("*.safetensors*")):
        return ModelFiles(root, "safetensors")
    ggufs = sorted(root.glob("*.gguf"))
    if len(ggufs) > 1:
        message = (
            f"{root}: holds {len(ggufs)} GGUF files ({', '.join(f.name for f in ggufs[:8])}) and "
            "one must be meant. Give the path of that file"
        )
        raise ModelError(message)
    return ModelFiles(ggufs[0], "gguf") if ggufs else None


def _nothing_there(root: Path, load_format: str) -> str:
    wanted = "weights" if load_format in ("auto", "dummy") else f"{load_format} weights"
    if not root.is_dir():
        return (
            f"{root}: is not a file of {wanted} that can be loaded; allowed: a .gguf file, or a "
            "directory with config.json and safetensors files"
        )
    return what_lies_there(root) or (
        f"{root}: no {wanted} there; needed: config.json and model.safetensors (or "
        "model.safetensors.index.json and its shards), or one .gguf file. Complete the directory"
    )
