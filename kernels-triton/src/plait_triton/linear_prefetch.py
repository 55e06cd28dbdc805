"""Bring weights into the L2 cache before the kernels before this one have finished."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def prefetch(weight, row, start, COLUMNS: tl.constexpr, IN_FEATURES: tl.constexpr):
    """Ask for ``COLUMNS`` columns from ``start`` on of the rows ``row`` [rows] of a matrix.

    ``COLUMNS`` is a power of two or 0. Nothing waits for what is asked for, and nothing is asked
    for past the end of a row. The interpreter cannot do this: there ``COLUMNS`` must be 0.
    """
    if COLUMNS > 0:
        LINE: tl.constexpr = 1024 // weight.dtype.element_ty.primitive_bitwidth
        LINES: tl.constexpr = COLUMNS // LINE if COLUMNS > LINE else 1
        column = tl.minimum(start + tl.arange(0, LINES) * LINE, IN_FEATURES - 1)
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
            "=r,l",
            [weight + row[:, None] * IN_FEATURES + column[None, :]],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )
