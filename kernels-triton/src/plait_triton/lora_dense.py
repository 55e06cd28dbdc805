"""Dense entries within expand: replaced rows, scaled and added rows. Simple, not fast."""

from __future__ import annotations

import triton
import triton.language as tl

from plait_kernels.lora_types import DENSE_ADD, DENSE_ROW, DENSE_SCALE
from plait_triton.language import bound

_ADD = tl.constexpr(DENSE_ADD)
_SCALE = tl.constexpr(DENSE_SCALE)
_ROW = tl.constexpr(DENSE_ROW)
_STEP = tl.constexpr(128)


@triton.jit
def replace_rows(
    value, x, x_stride, token, token_inside, column, column_inside, arena,
    dense_kind, dense_offset, dense_index, start, count,
    TOKENS: tl.constexpr, IN: tl.constexpr, EMBED: tl.constexpr, WEIGHT: tl.constexpr,
):  # fmt: skip
    """Put what the DENSE_ROW entries say into ``value`` [TOKENS, columns], in their order."""
    for entry in range(bound(start), bound(start + count)):
        if tl.load(dense_kind + entry) == _ROW:
            index = tl.load(dense_index + entry)
            begin = arena + tl.load(dense_offset + entry)
            row = begin.to(tl.pointer_type(WEIGHT), bitcast=True)
            if EMBED:
                is_named = tl.load(x + token, mask=token_inside, other=-1) == index
                new = tl.load(row + column, mask=column_inside, other=0).to(tl.float32)
                value = tl.where(is_named[:, None], new[None, :], value)
            else:
                product = tl.zeros((TOKENS,), tl.float32)
                for first in range(0, IN, _STEP):
                    at = first + tl.arange(0, _STEP)
                    weight = tl.load(row + at, mask=at < IN, other=0).to(tl.float32)
                    mask = token_inside[:, None] & (at < IN)[None, :]
                    inputs = tl.load(
                        x + (token * x_stride)[:, None] + at[None, :], mask=mask, other=0
                    )
                    product += tl.sum(inputs.to(tl.float32) * weight[None, :], 1)
                value = tl.where((column == index)[None, :], product[:, None], value)
    return value


@triton.jit
def scale_and_add(
    value, token_weight, column, column_inside, arena,
    dense_kind, dense_offset, dense_weight, start, count,
):  # fmt: skip
    """Return ``g ⊙ value + w · b`` of the DENSE_SCALE and DENSE_ADD entries."""
    for entry in range(bound(start), bound(start + count)):
        if tl.load(dense_kind + entry) == _SCALE:
            begin = arena + tl.load(dense_offset + entry)
            row = begin.to(tl.pointer_type(tl.float32), bitcast=True)
            value *= tl.load(row + column, mask=column_inside, other=1)[None, :]
    for entry in range(bound(start), bound(start + count)):
        if tl.load(dense_kind + entry) == _ADD:
            begin = arena + tl.load(dense_offset + entry)
            row = begin.to(tl.pointer_type(tl.float32), bitcast=True)
            added = tl.load(row + column, mask=column_inside, other=0)
            weight = token_weight * tl.load(dense_weight + entry)
            value += weight[:, None] * added[None, :]
    return value
