"""How ``linear`` divides its work: a pure function of sizes and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import torch

from plait_triton.sizes import power_of_two

MAX_ROWS: Final = 64
"""The most rows for which any kernel here is faster than cuBLAS."""

_FEW_OUTPUTS: Final = 4096
"""Up to here tiles of 64 outputs are too few to keep an H100 loading: the inputs are split."""

_MANY_OUTPUTS: Final = 16384
"""From here on the kernels here are faster than cuBLAS up to 64 rows, not only up to 32."""


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
    """

    block_rows: int
    block_out: int
    block_in: int
    warps: int = 4
    stages: int = 4
    splits: int = 1


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
        return _vector(in_features, dtype)
    # No tensor core multiplies float32 without rounding it to tf32.
    if dtype == torch.float32 or rows > MAX_ROWS:
        return None
    return _matrix(rows, out_features, in_features)


def _vector(in_features: int, dtype: torch.dtype) -> VectorBlocks:
    return VectorBlocks(4, min(4096 // dtype.itemsize, power_of_two(in_features)))


def _matrix(rows: int, out_features: int, in_features: int) -> MatrixBlocks | None:
    block_rows = max(16, power_of_two(rows))
    widest = max(16, power_of_two(in_features))
    if rows > 32:
        if out_features < _MANY_OUTPUTS:
            return None
        return MatrixBlocks(block_rows, 64, min(64, widest), stages=5)
    splits = 4 if out_features <= _FEW_OUTPUTS else 1
    return MatrixBlocks(block_rows, 64, min(128, widest), stages=4, splits=splits)
