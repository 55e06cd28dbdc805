"""Whether a tensor is what the embedding or the head of a GGUF file was quantised from.

Adapters may bring a copy of the base model's head, and a quantised base has other numbers. A
quantised number is the level of its block that is nearest to the number it was made of, or the last
level where that lies beyond. So a tensor is the origin if this holds for all its numbers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Types

from plait_models.files.gguf_header import read_header
from plait_models.files.gguf_types import dequantise, num_bytes, type_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from plait_models.files.gguf_types import Bytes, Floats

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_SLAB = 2**18
"""Numbers that are compared at a time."""


@dataclass(frozen=True)
class _Levels:
    """Where a block has its quantised numbers: the bytes, filled with which they are extreme."""

    start: int
    end: int
    count: int
    lowest: int = 0x00
    highest: int = 0xFF


_LEVELS: Mapping[Types, _Levels] = MappingProxyType(
    {
        Types.Q4_0: _Levels(2, 18, 16),
        Types.Q4_1: _Levels(4, 20, 16),
        Types.Q5_0: _Levels(2, 22, 32),
        Types.Q5_1: _Levels(4, 24, 32),
        Types.Q8_0: _Levels(2, 34, 255, 0x81, 0x7F),  # -127 and 127
        Types.Q2_K: _Levels(16, 80, 4),
        Types.Q3_K: _Levels(0, 96, 8),
        Types.Q4_K: _Levels(16, 144, 16),
        Types.Q5_K: _Levels(16, 176, 32),
        Types.Q6_K: _Levels(0, 192, 64),
    }
)
"""Types whose levels are evenly spaced. Of another type no tensor is known to be the origin."""

_ROUNDING: Mapping[torch.dtype, float] = MappingProxyType(
    {torch.bfloat16: 2**-9, torch.float16: 2**-11}
)
"""What a copy in this dtype may be away from the number that was quantised, relative."""

_OF_SCALES = 2**-10
"""Scales are rounded to float16 after the numbers have been divided by them."""

_TINY = 1e-5
"""Numbers of a block whose scale float16 cannot hold are lost."""


def is_origin(path: Path, group: str, weight: torch.Tensor) -> bool:
    """Say whether a weight is what the weight of a file was quantised from.

    Parameters
    ----------
    path : Path
        A GGUF file.
    group : str
        ``"embed"`` or ``"head"``.
    weight : Tensor [vocab_size, hidden]

    Raises
    ------
    ModelError
        If the file is damaged.
    OSError
        If it cannot be read.
    """
    tensors = read_header(path).tensors
    name = _HEAD if group == "head" and _HEAD in tensors else _EMBEDDING
    if name not in tensors or tensors[name].shape != tuple(weight.shape):
        return False
    info, what = tensors[name], f"{path}: {name}"
    kind = type_of(info, what)
    if kind not in _LEVELS:
        return False
    numbers, block_bytes = map(int, GGML_QUANT_SIZES[kind])
    slab_bytes = _SLAB // numbers * block_bytes
    flat = weight.detach().cpu().contiguous().view(-1)
    with path.open("rb") as file:
        os.lseek(file.fileno(), info.start, os.SEEK_SET)
        left, done = num_bytes(info, kind, what), 0
        while left:
            packed = np.frombuffer(file.read(min(left, slab_bytes)), np.uint8)
            count = len(packed) // block_bytes * numbers
            part = flat[done : done + count]
            if not len(packed) or not _made_of(part, packed, kind):
                return False
            left, done = left - len(packed), done + count
    return True


def _made_of(weight: torch.Tensor, packed: Bytes, kind: Types) -> bool:
    levels = _LEVELS[kind]
    numbers, block_bytes = map(int, GGML_QUANT_SIZES[kind])

    def filled(byte: int) -> Floats:
        blocks = packed.reshape(-1, block_bytes).copy()
        blocks[:, levels.start : levels.end] = byte
        return dequantise(blocks.reshape(-1), kind)

    given, found = weight.float().numpy(), dequantise(packed, kind)
    ends = filled(levels.lowest), filled(levels.highest)
    low, high = np.minimum(*ends), np.maximum(*ends)
    step = (high - low) / (levels.count - 1)
    # A part of a block may be so small beside the others that its scale is rounded to nothing.
    widest = np.repeat(step.reshape(-1, numbers).max(1), numbers)
    step = np.where(step > 0, step, widest * levels.count)
    allowed = 0.505 * step + _OF_SCALES * np.maximum(abs(low), abs(high)) + _TINY
    allowed += _ROUNDING.get(weight.dtype, 0.0) * abs(given)
    near = abs(given - found) <= allowed
    beyond = ((given < low) & (found == low)) | ((given > high) & (found == high))
    return bool((near | beyond).all())
