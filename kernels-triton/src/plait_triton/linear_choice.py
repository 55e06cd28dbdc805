"""How ``linear`` divides its work: a pure function of sizes and dtype."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import torch

from plait_triton.sizes import ceil_div, power_of_two

MAX_ROWS: Final = 128
"""The most rows that are multiplied here.

From 33 rows on cuBLAS is as fast by itself. But what follows these kernels, above all ``lora``'s
expand, may start before they end and read what it knows; and they begin to read before x is there.
"""

_MULTIPROCESSORS: Final = 132
"""Of an H100: with no more programs, each has the shared memory of one to itself."""

_ENOUGH_PROGRAMS: Final = 96
"""As many read about as fast as the memory can."""

_NEAR: Final = 512
"""Bytes of a row that are brought near, at most: more is slower."""

_MANY_INPUTS: Final = 8192
"""From here on tiles are not made narrower, as each of them reads all of x, but inputs split."""


@dataclass(frozen=True)
class VectorBlocks:
    """How one row is multiplied.

    Attributes
    ----------
    block_out : int
        Outputs of a program.
    block_in : int
        Inputs that it multiplies at a time.
    warps : int
        Of a program.
    """

    block_out: int
    block_in: int
    warps: int = 4


@dataclass(frozen=True)
class MatrixBlocks:
    """How a few rows are multiplied.

    Attributes
    ----------
    block_rows : int
        Rows of x that a program multiplies: a power of two, at least all there are.
    block_out : int
        Outputs of a tile.
    block_in : int
        Inputs that are multiplied at a time.
    warps : int
        Of a program.
    stages : int
        Blocks of weights and x that are in shared memory or on the way.
    splits : int
        Parts of the inputs, each added up by programs of its own.
    x_is_tall : bool
        Whether x is the operand that has at least 64 rows, not the weight.
    near : int
        Bytes of each row of a tile that are brought to the L2 cache ahead of all else: whole pieces
        of 16, and no more than there are inputs in a split.
    """

    block_rows: int
    block_out: int
    block_in: int
    warps: int = 4
    stages: int = 4
    splits: int = 1
    x_is_tall: bool = False
    near: int = 0


Blocks: TypeAlias = VectorBlocks | MatrixBlocks


def choose(
    rows: int, out_features: int, in_features: int, dtype: torch.dtype, shared: int
) -> Blocks | None:
    """Return how a product is divided; None: by torch's own kernel.

    Parameters
    ----------
    rows : int
        At least 1.
    out_features, in_features : int
    dtype : torch.dtype
        float32, bfloat16 or float16.
    shared : int
        Bytes of shared memory that a program can have.
    """
    if rows == 1:
        return _vector(in_features, dtype)
    # No tensor core multiplies float32 without rounding it to tf32.
    if dtype == torch.float32 or rows > MAX_ROWS:
        return None
    blocks = _matrix(rows, out_features, in_features)
    stage = (blocks.block_rows + blocks.block_out) * blocks.block_in * dtype.itemsize
    # Where not all splits are of whole blocks, the last ones may begin past the end.
    is_even = in_features % (blocks.block_in * blocks.splits) == 0
    near = min(_NEAR, in_features // blocks.splits * dtype.itemsize) if is_even else 0
    return replace(blocks, stages=max(1, min(blocks.stages, shared // stage)), near=near)


def _vector(in_features: int, dtype: torch.dtype) -> VectorBlocks:
    return VectorBlocks(4, min(4096 // dtype.itemsize, power_of_two(in_features)))


def _matrix(rows: int, out_features: int, in_features: int) -> MatrixBlocks:
    """Choose what was best for Llama-3.1-8B's linears, measured in a layer with adapters."""
    tiles = ceil_div(out_features, 64)
    splits = next((n for n in (1, 2) if n * tiles >= _ENOUGH_PROGRAMS), 4)
    has_many = splits * tiles > _MULTIPROCESSORS
    block_rows = max(16, power_of_two(rows))
    blocks = MatrixBlocks(block_rows, 64, 128, stages=4 if has_many else 5, splits=splits)
    if rows > 32:
        is_narrow = splits == 2 and in_features < _MANY_INPUTS
        blocks = _of_tall_x(rows > 64, is_narrow, has_many, blocks)
    return replace(blocks, block_in=min(blocks.block_in, max(16, power_of_two(in_features))))


def _of_tall_x(
    is_taller: bool, is_narrow: bool, has_many: bool, blocks: MatrixBlocks
) -> MatrixBlocks:
    """Change what is chosen for fewer rows: x needs more of the shared memory."""
    blocks = replace(blocks, x_is_tall=True, warps=8 if is_taller else 4)
    if is_narrow:
        return replace(blocks, block_out=32, stages=4 if is_taller else 5, splits=1)
    if has_many:
        return replace(blocks, block_out=128 if is_taller else 64, block_in=64, stages=5)
    if blocks.splits > 1 and is_taller:
        return replace(blocks, block_in=64, stages=6)
    return replace(blocks, stages=4)
