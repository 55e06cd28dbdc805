"""GGUF files of the llama architecture: config from metadata, weights dequantised on reading."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from plait_kernels.errors import ModelError
from plait_models.fields import LIMITS
from plait_models.files.gguf_config import check_metadata, parse_gguf_config
from plait_models.files.gguf_header import read_header
from plait_models.files.gguf_names import ROPE_FACTORS, hugging_face_name
from plait_models.files.gguf_types import dequantise, num_bytes, type_of
from plait_models.files.opening import open_regular
from plait_models.files.source import Entry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gguf import GGMLQuantizationType

    from plait_models.config import ModelConfig
    from plait_models.files.gguf_types import Bytes


@dataclass(frozen=True)
class _Packed:
    """A tensor as it lies in the file."""

    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    data: Bytes

    def read(self) -> torch.Tensor:
        return torch.from_numpy(dequantise(self.data, self.kind)).view(self.shape)


class GgufFile:
    """An open GGUF file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ModelError
        If the file is damaged, one of several parts, or of another architecture than llama.
    """

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        self._header = read_header(path)
        check_metadata(self._header, self.origin)
        try:
            with open_regular(path) as file:
                self._data = np.memmap(file, mode="r").view(np.ndarray)
        except (OSError, ValueError) as error:
            message = f"{path}: cannot be read: {error}. Fetch the file again"
            raise ModelError(message) from error

    def config(self) -> ModelConfig:
        """Make the config from the metadata."""
        factors = self._rope_factors() if ROPE_FACTORS in self._header.tensors else None
        return parse_gguf_config(self._header, self.origin, factors)

    def weights(self, config: ModelConfig) -> GgufWeights:
        """Give the tensors of the file, under the names of Hugging Face.

        Raises
        ------
        ModelError
            Of a tensor of a type that cannot be dequantised, or whose bytes are not all there.
        """
        names = [name for name in self._header.tensors if name != ROPE_FACTORS]
        return GgufWeights(self.origin, {name: self._packed(name) for name in names}, config)

    def _rope_factors(self) -> torch.Tensor:
        count, most = math.prod(self._header.tensors[ROPE_FACTORS].shape), LIMITS["head_dim"][1]
        if count > most:
            message = (
                f"{self.origin}: {ROPE_FACTORS} holds {count} numbers; allowed: half the size of a "
                f"head, at most {most}. Convert the model again"
            )
            raise ModelError(message)
        return self._packed(ROPE_FACTORS).read()

    def _packed(self, name: str) -> _Packed:
        info, what = self._header.tensors[name], f"{self.origin}: {name}"
        kind = type_of(info, what)
        end = info.start + num_bytes(info, kind, what)
        if end > len(self._data):
            message = (
                f"{self.origin}: not a whole GGUF file: it ends at byte {len(self._data)}, and "
                f"{name} at byte {end}. Fetch the file again"
            )
            raise ModelError(message)
        return _Packed(info.shape, kind, self._data[info.start : end])


class GgufWeights:
    """The tensors of a GGUF file as Hugging Face would store them, in float32.

    llama.cpp stores the rows of q and k so that the two numbers that are rotated together are
    neighbours; Hugging Face stores them half a head apart. Reading undoes that.
    """

    def __init__(self, origin: str, tensors: Mapping[str, _Packed], config: ModelConfig) -> None:
        self.origin = origin
        self._config = config
        self._tensors = {hugging_face_name(name): tensor for name, tensor in tensors.items()}
        self._entries = {
            name: Entry(tensor.shape, tensor.data.nbytes) for name, tensor in self._tensors.items()
        }

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every tensor, in the order of the file."""
        return self._entries

    def read(self, name: str) -> torch.Tensor:
        """Read and dequantise a tensor to float32."""
        weight = self._tensors[name].read()
        if ".q_proj." in name:
            return _halves_apart(weight, self._config.heads)
        if ".k_proj." in name:
            return _halves_apart(weight, self._config.kv_heads)
        return weight


def _halves_apart(weight: torch.Tensor, heads: int) -> torch.Tensor:
    # [heads · pairs · 2, …] -> [heads · 2 · pairs, …]
    paired = weight.view(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return paired.transpose(1, 2).reshape(weight.shape)
