"""The kernel of expand: ``y += h · Bᵀ``, and what dense entries do to y."""

from __future__ import annotations

import triton
import triton.language as tl

from plait_triton.language import bound, dot, let_next_start, wait_for_inputs
from plait_triton.lora_dense import replace_rows, scale_and_add
from plait_triton.lora_tables import find_tokens, tile_ranges, tile_rows


@triton.jit
def _tiles(
    first, tile_offset, tile_rank, tile_scale, start, count, out,
    ROWS: tl.constexpr, TILE: tl.constexpr, IN: tl.constexpr, ALIGNED: tl.constexpr,
    SIZE: tl.constexpr,
):  # fmt: skip
    """Return rank rows: numbers, which shrink wrote, which count, scales, where Bᵀ's begin."""
    row = first + tl.arange(0, ROWS)
    tile = start + row // TILE
    inside = row < count * TILE
    begin, counts = tile_rows(tile_offset, tile_rank, tile, inside, row, TILE, SIZE)
    # Written so that the compiler sees the alignment.
    b_rows = begin + TILE * IN + (row % TILE) * ((out // ALIGNED) * ALIGNED)
    scale = tl.load(tile_scale + tile, mask=inside, other=0)
    return row, inside, counts, scale, b_rows


@triton.jit
def _hidden(
    h_rows, h_split, token_inside, token_weight, row, inside, counts, scale,
    TOKENS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Return scaled h [TOKENS, rows]: the sum of the splits."""
    # Shrink wrote all rows of a tile: so masked, they are read several at a time.
    mask = token_inside[:, None] & inside[None, :]
    h = tl.zeros((TOKENS, row.shape[0]), tl.float32)
    for split in tl.static_range(SPLITS):
        h += tl.load(h_rows[:, None] + (split * h_split + row)[None, :], mask=mask, other=0)
    return tl.where(counts[None, :], h, 0) * (scale[None, :] * token_weight[:, None])


@triton.jit
def _load_b(b_rows, counts, column, column_inside):
    """Return b [rows, columns]."""
    mask = counts[:, None] & column_inside[None, :]
    return tl.load(b_rows[:, None] + column[None, :], mask=mask, other=0)


@triton.jit
def _add_product(acc, h, b, COMPUTE: tl.constexpr):
    """Return ``acc + h · b``."""
    if COMPUTE.primitive_bitwidth == 32:
        return dot(h, b.to(tl.float32), acc)
    # Two terms of 16 bits keep what rounding h once would lose.
    high = h.to(COMPUTE)
    acc = dot(high, b, acc)
    return dot((h - high.to(tl.float32)).to(COMPUTE), b, acc)


@triton.jit(do_not_specialize=["max_segments", "tokens_in_all", "i0", "i1", "i2"])
def expand_kernel(
    y, y_stride, x, x_stride, h, width, tokens_in_all, arena,
    tile_start, tile_count, start_stride, count_stride, tile_offset, tile_rank, tile_scale,
    dense_start, dense_count, dense_start_stride, dense_count_stride,
    dense_kind, dense_offset, dense_index, dense_weight,
    weight_of_token, order, segment_slot, segment_start, num_segments, max_segments, i0, i1, i2,
    SITES: tl.constexpr, IN: tl.constexpr, OUT0: tl.constexpr, OUT1: tl.constexpr,
    OUT2: tl.constexpr, OFFSET0: tl.constexpr, OFFSET1: tl.constexpr, OFFSET2: tl.constexpr,
    ALIGNED: tl.constexpr, EMBED: tl.constexpr, DENSE: tl.constexpr, TILE: tl.constexpr,
    WEIGHT: tl.constexpr, COMPUTE: tl.constexpr, SPLITS: tl.constexpr, TOKENS: tl.constexpr,
    ROWS: tl.constexpr, MANY_ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCKS: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Program (work item, ``BLOCKS`` blocks of columns of one of up to three sites)."""
    let_next_start(PDL)
    slot, place, tokens = find_tokens(
        tl.program_id(0), segment_slot, segment_start, num_segments, max_segments, TOKENS
    )
    if tokens <= 0:
        wait_for_inputs(PDL)
        return
    start, count, start1, count1, start2, count2 = tile_ranges(
        tile_start, tile_count, start_stride, count_stride, slot, i0, i1, i2, SITES
    )
    SPAN: tl.constexpr = COLUMNS * BLOCKS
    span = tl.program_id(1)
    index, out, offset, begin = i0, OUT0, OFFSET0, 0
    if SITES > 1:
        spans0: tl.constexpr = (OUT0 + SPAN - 1) // SPAN
        if span >= spans0:
            span -= spans0
            index, out, offset, begin = i1, OUT1, OFFSET1, count
            start, count = start1, count1
            if SITES > 2:
                spans1: tl.constexpr = (OUT1 + SPAN - 1) // SPAN
                if span >= spans1:
                    span -= spans1
                    index, out, offset, begin = i2, OUT2, OFFSET2, begin + count1
                    start, count = start2, count2
    dense_entries, first_entry = 0, 0
    if DENSE:
        at = slot.to(tl.int64)
        dense_entries = tl.load(dense_count + at * dense_count_stride + index)
        first_entry = tl.load(dense_start + at * dense_start_stride + index)
    if count + dense_entries == 0:
        wait_for_inputs(PDL)
        return
    number = tl.arange(0, TOKENS)
    token_inside = number < tokens
    token = tl.load(order + place + number, mask=token_inside, other=0).to(tl.int64)
    token_weight = tl.load(weight_of_token + token, mask=token_inside, other=0)
    y_rows = y + token * y_stride + (offset // ALIGNED) * ALIGNED
    h_rows = h + (place + number).to(tl.int64) * width + begin * TILE
    h_split = tokens_in_all.to(tl.int64) * width
    weights = arena.to(tl.pointer_type(WEIGHT), bitcast=True)
    size: tl.constexpr = WEIGHT.primitive_bitwidth // 8
    row, inside, counts_first, scale, b_first = _tiles(
        0, tile_offset, tile_rank, tile_scale, start, count, out, ROWS, TILE, IN, ALIGNED, size
    )
    last_column = (out // ALIGNED) * ALIGNED
    end = tl.minimum((span + 1) * SPAN, out)
    column = span * SPAN + tl.arange(0, COLUMNS)
    b = _load_b(weights + b_first, counts_first, column, column < last_column)
    wait_for_inputs(PDL)
    h_first = _hidden(
        h_rows, h_split, token_inside, token_weight, row, inside, counts_first, scale,
        TOKENS, SPLITS,
    )  # fmt: skip
    for first_column in range(bound(span * SPAN), bound(end), COLUMNS):
        column = first_column + tl.arange(0, COLUMNS)
        column_inside = column < last_column
        y_mask = token_inside[:, None] & column_inside[None, :]
        y_at = y_rows[:, None] + column[None, :]
        before = tl.load(y_at, mask=y_mask, other=0)
        acc = tl.zeros((TOKENS, COLUMNS), tl.float32)
        acc = _add_product(acc, h_first, b, COMPUTE)
        if BLOCKS > 1:
            # On the way while this block is added to y.
            next_column = column + COLUMNS
            b = _load_b(weights + b_first, counts_first, next_column, next_column < end)
        for first in range(ROWS, bound(count * TILE), MANY_ROWS):
            more, exists, counts_more, scale_more, b_rows = _tiles(
                first, tile_offset, tile_rank, tile_scale, start, count, out,
                MANY_ROWS, TILE, IN, ALIGNED, size,
            )  # fmt: skip
            h_more = _hidden(
                h_rows, h_split, token_inside, token_weight, more, exists, counts_more,
                scale_more, TOKENS, SPLITS,
            )  # fmt: skip
            b_more = _load_b(weights + b_rows, counts_more, column, column_inside)
            acc = _add_product(acc, h_more, b_more, COMPUTE)
        value = before.to(tl.float32)
        if DENSE:
            value = replace_rows(
                value, x, x_stride, token, token_inside, column, column_inside, arena,
                dense_kind, dense_offset, dense_index, first_entry, dense_entries,
                TOKENS, IN, EMBED, WEIGHT,
            )  # fmt: skip
        value += acc
        if DENSE:
            value = scale_and_add(
                value, token_weight, column, column_inside, arena,
                dense_kind, dense_offset, dense_weight, first_entry, dense_entries,
            )  # fmt: skip
        tl.store(y_at, value.to(y.dtype.element_ty), mask=y_mask)
