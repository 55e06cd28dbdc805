"""The kernel of expand: ``y += h · Bᵀ``, and what dense entries do to y."""

from __future__ import annotations

import triton
import triton.language as tl

from plait_triton.language import bound, let_next_start, wait_for_inputs
from plait_triton.lora_plan import (
    count_parts,
    longest_tiles,
    part_of_site,
    read_plan,
    shared_span,
)
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
def _update(
    first_column, last_column, tokens, first_place, y_site, y_stride, order, weight_of_token,
    h, width, h_piece, pieces, row, inside, counts, scale, b, b_rows,
    tile_offset, tile_rank, tile_scale, start, count, out, weights,
    x, x_stride, arena, dense_kind, dense_offset, dense_index, dense_weight,
    first_entry, dense_entries,
    ROWS: tl.constexpr, MANY_ROWS: tl.constexpr, TILE: tl.constexpr, IN: tl.constexpr,
    ALIGNED: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
    PIECES: tl.constexpr, DENSE: tl.constexpr, EMBED: tl.constexpr, WEIGHT: tl.constexpr,
    COMPUTE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Do to columns of a work item's tokens what there is to do; b is that of the first block."""
    number = tl.arange(0, TOKENS)
    token_inside = number < tokens
    place = first_place + number
    token = tl.load(order + place, mask=token_inside, other=0).to(tl.int64)
    token_weight = tl.load(weight_of_token + token, mask=token_inside, other=0)
    h_rows = h + place.to(tl.int64) * width
    wait_for_inputs(PDL)
    h_first = scaled_hidden(
        h_rows, h_piece, pieces, token_inside, token_weight, row, inside, counts, scale,
        TOKENS, PIECES,
    )  # fmt: skip
    for first in range(bound(first_column), bound(last_column), COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        column_inside = column < last_column
        y_mask = token_inside[:, None] & column_inside[None, :]
        y_at = (y_site + token * y_stride)[:, None] + column[None, :]
        before = tl.load(y_at, mask=y_mask, other=0)
        acc = add_product(tl.zeros((TOKENS, COLUMNS), tl.float32), h_first, b, COMPUTE)
        # On the way while this block is added to y.
        following = column + COLUMNS
        b = load_b(weights + b_rows, counts, following, following < last_column)
        acc = add_further_products(
            acc, h_rows, h_piece, pieces, token_inside, token_weight, column, column_inside,
            weights, tile_offset, tile_rank, tile_scale, start, count, out,
            ROWS, MANY_ROWS, TILE, IN, ALIGNED, SIZE, TOKENS, PIECES, COMPUTE,
        )  # fmt: skip
        value = updated(
            before, acc, x, x_stride, token, token_inside, token_weight, column, column_inside,
            arena, dense_kind, dense_offset, dense_index, dense_weight, first_entry, dense_entries,
            TOKENS, IN, DENSE, EMBED, WEIGHT,
        )  # fmt: skip
        tl.store(y_at, value.to(before.dtype), mask=y_mask)


@triton.jit(do_not_specialize=NUMBERS, do_not_specialize_on_alignment=TABLES)
def expand_kernel(
    y, y_stride, x, x_stride, h, width, tokens_in_all, arena,
    tile_start, tile_count, start_stride, count_stride, tile_offset, tile_rank, tile_scale,
    dense_start, dense_count, dense_start_stride, dense_count_stride,
    dense_kind, dense_offset, dense_index, dense_weight,
    weight_of_token, order, segment_slot, segment_start, num_segments, max_segments,
    i0, i1, i2, plan, SITES: tl.constexpr, IN: tl.constexpr,
    OUT0: tl.constexpr, OUT1: tl.constexpr, OUT2: tl.constexpr, OFFSET0: tl.constexpr,
    OFFSET1: tl.constexpr, OFFSET2: tl.constexpr, ALIGNED: tl.constexpr, EMBED: tl.constexpr,
    DENSE: tl.constexpr, TILE: tl.constexpr, WEIGHT: tl.constexpr, COMPUTE: tl.constexpr,
    SHRINK_TOKENS: tl.constexpr, SHRINK_STEPS: tl.constexpr, SHRINK_PROGRAMS: tl.constexpr,
    PIECES: tl.constexpr, TOKENS: tl.constexpr, FEW_TOKENS: tl.constexpr,
    FEW_TILES: tl.constexpr, ROWS: tl.constexpr, MANY_ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCKS: tl.constexpr, SHARED_BY: tl.constexpr, SHARED_BY_MANY: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Program (some blocks of ``COLUMNS`` columns of one of up to three sites, of a work item).

    ``plan`` says what each does, if shrink has written it.
    ``SHARED_BY`` as many, or ``SHARED_BY_MANY``, all columns are shared; 0: by as many as it takes.
    """
    let_next_start(PDL)
    if plan is not None:
        wait_for_inputs(PDL)
        slot, place, tokens, pieces, site, first, last, start, count, before = read_plan(
            plan, tl.program_id(0)
        )
    else:
        span = COLUMNS * BLOCKS
        if SHARED_BY > 0:
            most0, most1, most2 = longest_tiles(
                tile_start, tile_count, start_stride, count_stride, segment_slot, num_segments,
                i0, i1, i2, SITES,
            )  # fmt: skip
            span = shared_span(
                count_items(segment_start, num_segments, TOKENS), most0, most1, most2,
                OUT0, OUT1, OUT2, FEW_TILES, COLUMNS, BLOCKS, SHARED_BY, SHARED_BY_MANY,
            )  # fmt: skip
        parts = count_parts(span, OUT0, OUT1, OUT2)
        # Programs start in order: those of the items that come first, the longest.
        slot, place, tokens = find_tokens(
            tl.program_id(0) // parts, segment_slot, segment_start, num_segments, max_segments,
            TOKENS,
        )  # fmt: skip
        start0, count0, start1, count1, start2, count2 = tile_ranges(
            tile_start, tile_count, start_stride, count_stride, slot, i0, i1, i2, SITES
        )
        site, first, last, start, count, before = part_of_site(
            tl.program_id(0) % parts, span, start0, count0, start1, count1, start2, count2,
            OUT0, OUT1, OUT2, SITES,
        )  # fmt: skip
        pieces, _ = share_steps(
            count_items(segment_start, num_segments, SHRINK_TOKENS), SHRINK_STEPS,
            SHRINK_PROGRAMS, PIECES,
        )  # fmt: skip
    if tokens <= 0:
        wait_for_inputs(PDL)
        return
    index, out, offset = i0, OUT0, OFFSET0
    if SITES > 1:
        index = tl.where(site == 1, i1, index)
        out, offset = tl.where(site == 1, OUT1, out), tl.where(site == 1, OFFSET1, offset)
    if SITES > 2:
        index = tl.where(site == 2, i2, index)
        out, offset = tl.where(site == 2, OUT2, out), tl.where(site == 2, OFFSET2, offset)
    dense_entries, first_entry = 0, 0
    if DENSE:
        at = slot.to(tl.int64)
        dense_entries = tl.load(dense_count + at * dense_count_stride + index)
        first_entry = tl.load(dense_start + at * dense_start_stride + index)
    if count + dense_entries == 0:
        wait_for_inputs(PDL)
        return
    # Written so that the compiler sees the alignment.
    first, last = (first // COLUMNS) * COLUMNS, (last // ALIGNED) * ALIGNED
    y_site = y + (offset // ALIGNED) * ALIGNED
    h_piece = tokens_in_all.to(tl.int64) * width
    weights = arena.to(tl.pointer_type(WEIGHT), bitcast=True)
    size: tl.constexpr = WEIGHT.primitive_bitwidth // 8
    row, inside, counts, scale, b_rows = rank_rows(
        0, tile_offset, tile_rank, tile_scale, start, count, out, ROWS, TILE, IN, ALIGNED, size
    )
    column = first + tl.arange(0, COLUMNS)
    b = load_b(weights + b_rows, counts, column, column < last)
    if FEW_TOKENS < TOKENS and tokens <= FEW_TOKENS:
        _update(
            first, last, tokens, place, y_site, y_stride, order, weight_of_token,
            h + before * TILE, width, h_piece, pieces, row, inside, counts, scale, b, b_rows,
            tile_offset, tile_rank, tile_scale, start, count, out, weights,
            x, x_stride, arena, dense_kind, dense_offset, dense_index, dense_weight,
            first_entry, dense_entries,
            ROWS, MANY_ROWS, TILE, IN, ALIGNED, size, FEW_TOKENS, COLUMNS, PIECES, DENSE, EMBED,
            WEIGHT, COMPUTE, PDL,
        )  # fmt: skip
    else:
        _update(
            first, last, tokens, place, y_site, y_stride, order, weight_of_token,
            h + before * TILE, width, h_piece, pieces, row, inside, counts, scale, b, b_rows,
            tile_offset, tile_rank, tile_scale, start, count, out, weights,
            x, x_stride, arena, dense_kind, dense_offset, dense_index, dense_weight,
            first_entry, dense_entries,
            ROWS, MANY_ROWS, TILE, IN, ALIGNED, size, TOKENS, COLUMNS, PIECES, DENSE, EMBED,
            WEIGHT, COMPUTE, PDL,
        )  # fmt: skip
