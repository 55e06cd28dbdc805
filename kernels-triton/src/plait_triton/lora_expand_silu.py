"""The kernel of expand and ``silu_and_mul`` in one: the updated gate and up never reach memory.

Of a prompt, reading and writing them is most of what the two kernels do.
"""

from __future__ import annotations

import triton
import triton.language as tl

from plait_triton.language import bound, let_next_start, wait_for_inputs
from plait_triton.lora_products import (
    add_further_products,
    add_product,
    load_b,
    rank_rows,
    scaled_hidden,
    updated,
)
from plait_triton.lora_tables import (
    NUMBERS,
    TABLES,
    count_items,
    find_tokens,
    share_steps,
    tile_ranges,
)


@triton.jit
def _tokens_of(
    item, tokens_in_all, token_slot, order, segment_slot, segment_start, num_segments,
    max_segments, TOKENS: tl.constexpr,
):  # fmt: skip
    """Return slot, first place in the work list, tokens, which of them exist, whether to no mix.

    After the work items of the mixes come as many as there are blocks of tokens: of each block they
    take what no mix takes.
    """
    items = tokens_in_all // TOKENS + max_segments
    number = tl.arange(0, TOKENS)
    slot, place, tokens = find_tokens(
        item, segment_slot, segment_start, num_segments, max_segments, TOKENS
    )
    is_base = item >= items
    listed = number < tl.where(is_base, 0, tokens)
    token = tl.load(order + place + number, mask=listed, other=0)
    at = (item - items) * TOKENS + number
    # Before the first block there are the work items of the mixes.
    exists = (at >= 0) & (at < tokens_in_all)
    exists = exists & (tl.load(token_slot + at, mask=exists, other=0) < 0)
    token = tl.where(is_base, at, token).to(tl.int64)
    return slot, place, token, listed | exists, is_base


@triton.jit
def _updated_block(
    before, h_first, b, count, start, h_rows, h_piece, pieces,
    token, token_inside, token_weight, column, column_inside, weights,
    tile_offset, tile_rank, tile_scale, x, x_stride, arena,
    dense_kind, dense_offset, dense_index, dense_weight, first_entry, dense_entries,
    OUT: tl.constexpr, ROWS: tl.constexpr, MANY_ROWS: tl.constexpr, TILE: tl.constexpr,
    IN: tl.constexpr, ALIGNED: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr, PIECES: tl.constexpr, DENSE: tl.constexpr, WEIGHT: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """Return what expand makes of a block of y, float32 [TOKENS, COLUMNS]."""
    acc = add_product(tl.zeros((TOKENS, COLUMNS), tl.float32), h_first, b, COMPUTE)
    acc = add_further_products(
        acc, h_rows, h_piece, pieces, token_inside, token_weight, column, column_inside, weights,
        tile_offset, tile_rank, tile_scale, start, count, OUT,
        ROWS, MANY_ROWS, TILE, IN, ALIGNED, SIZE, TOKENS, PIECES, COMPUTE,
    )  # fmt: skip
    return updated(
        before, acc, x, x_stride, token, token_inside, token_weight, column, column_inside,
        arena, dense_kind, dense_offset, dense_index, dense_weight, first_entry, dense_entries,
        TOKENS, IN, DENSE, False, WEIGHT,
    )  # fmt: skip


@triton.jit(do_not_specialize=NUMBERS, do_not_specialize_on_alignment=TABLES)
def expand_silu_kernel(
    y, y_stride, z, x, x_stride, h, width, tokens_in_all, arena,
    tile_start, tile_count, start_stride, count_stride, tile_offset, tile_rank, tile_scale,
    dense_start, dense_count, dense_start_stride, dense_count_stride,
    dense_kind, dense_offset, dense_index, dense_weight,
    weight_of_token, token_slot, order, segment_slot, segment_start, num_segments, max_segments,
    i0, i1, IN: tl.constexpr, OUT: tl.constexpr, ALIGNED: tl.constexpr, DENSE: tl.constexpr,
    TILE: tl.constexpr, WEIGHT: tl.constexpr, COMPUTE: tl.constexpr,
    SHRINK_TOKENS: tl.constexpr, SHRINK_STEPS: tl.constexpr, SHRINK_PROGRAMS: tl.constexpr,
    PIECES: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, MANY_ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCKS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (``BLOCKS`` blocks of ``COLUMNS`` columns of z, of a work item).

    y [tokens, 2 · OUT] is the gate, then up; z [tokens, OUT] is written.
    """
    let_next_start(PDL)
    parts: tl.constexpr = (OUT + COLUMNS * BLOCKS - 1) // (COLUMNS * BLOCKS)
    slot, place, token, token_inside, is_base = _tokens_of(
        tl.program_id(0) // parts, tokens_in_all, token_slot, order, segment_slot,
        segment_start, num_segments, max_segments, TOKENS,
    )  # fmt: skip
    if tl.max(token_inside.to(tl.int32), 0) == 0:
        wait_for_inputs(PDL)
        return
    start0, count0, start1, count1, _, _ = tile_ranges(
        tile_start, tile_count, start_stride, count_stride, slot, i0, i1, i1, 2
    )
    count0, count1 = tl.where(is_base, 0, count0), tl.where(is_base, 0, count1)
    entry0, entries0, entry1, entries1 = 0, 0, 0, 0
    if DENSE:
        at = slot.to(tl.int64)
        entry0 = tl.load(dense_start + at * dense_start_stride + i0)
        entry1 = tl.load(dense_start + at * dense_start_stride + i1)
        entries0 = tl.where(is_base, 0, tl.load(dense_count + at * dense_count_stride + i0))
        entries1 = tl.where(is_base, 0, tl.load(dense_count + at * dense_count_stride + i1))
    pieces, _ = share_steps(
        count_items(segment_start, num_segments, SHRINK_TOKENS), SHRINK_STEPS,
        SHRINK_PROGRAMS, PIECES,
    )  # fmt: skip
    weights = arena.to(tl.pointer_type(WEIGHT), bitcast=True)
    size: tl.constexpr = WEIGHT.primitive_bitwidth // 8
    row0, inside0, counts0, scale0, b_rows0 = rank_rows(
        0, tile_offset, tile_rank, tile_scale, start0, count0, OUT, ROWS, TILE, IN, ALIGNED, size
    )
    row1, inside1, counts1, scale1, b_rows1 = rank_rows(
        0, tile_offset, tile_rank, tile_scale, start1, count1, OUT, ROWS, TILE, IN, ALIGNED, size
    )
    token_weight = tl.load(weight_of_token + token, mask=token_inside, other=0)
    h_rows0 = h + (place + tl.arange(0, TOKENS)).to(tl.int64) * width
    h_rows1 = h_rows0 + count0 * TILE
    h_piece = tokens_in_all.to(tl.int64) * width
    wait_for_inputs(PDL)
    h0 = scaled_hidden(
        h_rows0, h_piece, pieces, token_inside, token_weight, row0, inside0, counts0, scale0,
        TOKENS, PIECES,
    )  # fmt: skip
    h1 = scaled_hidden(
        h_rows1, h_piece, pieces, token_inside, token_weight, row1, inside1, counts1, scale1,
        TOKENS, PIECES,
    )  # fmt: skip
    begin = (tl.program_id(0) % parts) * (COLUMNS * BLOCKS)
    for first in range(bound(begin), bound(tl.minimum(begin + COLUMNS * BLOCKS, OUT)), COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        column_inside = column < OUT
        mask = token_inside[:, None] & column_inside[None, :]
        # All on their way at the same time.
        y_at = (y + token * y_stride)[:, None] + column[None, :]
        gate = tl.load(y_at, mask=mask, other=0)
        up = tl.load(y_at + OUT, mask=mask, other=0)
        b0 = load_b(weights + b_rows0, counts0, column, column_inside)
        b1 = load_b(weights + b_rows1, counts1, column, column_inside)
        gate = _updated_block(
            gate, h0, b0, count0, start0, h_rows0, h_piece, pieces,
            token, token_inside, token_weight, column, column_inside, weights,
            tile_offset, tile_rank, tile_scale, x, x_stride, arena,
            dense_kind, dense_offset, dense_index, dense_weight, entry0, entries0,
            OUT, ROWS, MANY_ROWS, TILE, IN, ALIGNED, size, TOKENS, COLUMNS, PIECES, DENSE,
            WEIGHT, COMPUTE,
        )  # fmt: skip
        up = _updated_block(
            up, h1, b1, count1, start1, h_rows1, h_piece, pieces,
            token, token_inside, token_weight, column, column_inside, weights,
            tile_offset, tile_rank, tile_scale, x, x_stride, arena,
            dense_kind, dense_offset, dense_index, dense_weight, entry1, entries1,
            OUT, ROWS, MANY_ROWS, TILE, IN, ALIGNED, size, TOKENS, COLUMNS, PIECES, DENSE,
            WEIGHT, COMPUTE,
        )  # fmt: skip
        value = gate / (1.0 + tl.exp(-gate)) * up
        z_at = (z + token * OUT)[:, None] + column[None, :]
        tl.store(z_at, value.to(z.dtype.element_ty), mask=mask)
