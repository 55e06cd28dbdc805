"""What ``rms_norm`` and ``fused_add_rms_norm`` share: a row a program, in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from plait_triton.language import let_next_start, wait_for_inputs
from plait_triton.sizes import power_of_two

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig

_ELEMENTS_PER_THREAD = 16
"""Two loads of 16 bytes a thread, of bfloat16: rows are short, so what counts is latency."""

_MAX_WARPS = 16


@dataclass(frozen=True)
class NormParameters:
    """How a row is laid over a program.

    Attributes
    ----------
    hidden : int
        Elements of a row.
    block : int
        The same, rounded up to a power of two.
    warps : int
        Of a program.
    dtype : torch.dtype
    """

    hidden: int
    block: int
    warps: int
    dtype: torch.dtype

    @classmethod
    def of(cls, config: OpConfig) -> NormParameters:
        """Choose them for one config."""
        hidden = int(config.get("hidden") or 0)
        block = power_of_two(hidden)
        warps = min(max(block // (32 * _ELEMENTS_PER_THREAD), 1), _MAX_WARPS)
        return cls(hidden, block, warps, getattr(torch, config.dtype))


@triton.jit
def normalise(row, weight, eps, HIDDEN: tl.constexpr):
    """Return the norm of one row; all of it float32, and ``row`` 0 past HIDDEN."""
    mean_square = tl.sum(row * row, axis=0) / HIDDEN
    return row * (1.0 / tl.sqrt_rn(mean_square + eps)) * weight


@triton.jit
def rms_norm_kernel(
    x, weight, y, stride, eps, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < HIDDEN
    # No earlier kernel writes a weight of the base model: it is read while they finish.
    scale = tl.load(weight + column, mask=inside, other=0.0)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    value = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    normed = normalise(value, scale.to(tl.float32), eps, HIDDEN)
    tl.store(y + row * HIDDEN + column, normed.to(y.dtype.element_ty), mask=inside)


@triton.jit
def fused_add_rms_norm_kernel(
    x,
    residual,
    weight,
    y,
    x_stride,
    residual_stride,
    eps,
    HIDDEN: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < HIDDEN
    scale = tl.load(weight + column, mask=inside, other=0.0)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    place = residual + row * residual_stride + column
    added = tl.load(x + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    total = tl.load(place, mask=inside, other=0.0).to(tl.float32) + added
    stored = total.to(residual.dtype.element_ty)
    tl.store(place, stored, mask=inside)
    # The norm is that of the residual as it is stored.
    normed = normalise(stored.to(tl.float32), scale.to(tl.float32), eps, HIDDEN)
    tl.store(y + row * HIDDEN + column, normed.to(y.dtype.element_ty), mask=inside)
