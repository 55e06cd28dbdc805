"""How ``linear`` divides its work: a pure function of sizes and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
import triton

from plait_triton.language import INTERPRETED

MAX_ROWS: Final = 64
"""The most rows for which the kernels here are faster than cuBLAS."""

_SMALL: Final = 8448
"""Outputs of fewer than one tile of 64 for each of 132 multiprocessors."""


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
    prefetch : int
        Blocks of weights after the first that are asked for before x is there: 0 or a power of
        two.
    """

    block_out: int
    block_in: int
    warps: int = 4
    prefetch: int = 0


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
    programs : int
        The most programs a split, which then take one tile after another; 0 = one a tile.
    prefetch : int
        Blocks of weights that are asked for before x is there: 0 or a power of two.
    copy_engine : bool
        Whether weights are loaded by the tensor memory accelerator, from capability 9.0 on.
    """

    block_rows: int
    block_out: int
    block_in: int
    warps: int = 4
    stages: int = 4
    splits: int = 1
    programs: int = 0
    prefetch: int = 0
    copy_engine: bool = False


Blocks: TypeAlias = VectorBlocks | MatrixBlocks


def choose(rows: int, out_features: int, in_features: int, dtype: torch.dtype) -> Blocks | None:
    """Return how a product is divided; None: by torch's own kernel.

    Parameters
    ----------
    rows : int
        At least 1.
    out_features, in_features : int
    dtype : torch.dtype
        float32, bfloat16 or float16.
    """
    if rows == 1:
        return _vector(out_features, in_features, dtype)
    # No tensor core multiplies float32 without rounding it to tf32.
    if dtype == torch.float32 or rows > MAX_ROWS:
        return None
    return _matrix(rows, out_features, in_features)


def _vector(out_features: int, in_features: int, dtype: torch.dtype) -> VectorBlocks:
    return VectorBlocks(4, min(4096 // dtype.itemsize, triton.next_power_of_2(in_features)))


def _matrix(rows: int, out_features: int, in_features: int) -> MatrixBlocks | None:
    block_rows = max(16, triton.next_power_of_2(rows))
    widest = max(16, triton.next_power_of_2(in_features))
    if rows > 32:
        if out_features < 16384 and not INTERPRETED:
            return None
        return MatrixBlocks(block_rows, 64, min(64, widest), stages=5)
    splits = 4 if out_features <= 4096 else 1
    return MatrixBlocks(block_rows, 64, min(128, widest), stages=4, splits=splits)
