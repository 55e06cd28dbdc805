"""Kernels of shrink: ``x · Aᵀ`` of every mix, as partial sums over pieces of the input.

The rank rows of a group's sites follow each other in one list, whole tiles each, so that a program
reads x once for several sites wherever their tiles lie. h is float32 [pieces, tokens, width]:
tokens in the order of the batch's work list, columns in the order of that list of rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from plait_triton.language import bound, dot, let_next_start, wait_for_inputs
from plait_triton.lora_plan import write_plan
from plait_triton.lora_tables import (
    NUMBERS,
    TABLES,
    count_items,
    find_tokens,
    share_steps,
    tile_ranges,
    tile_rows,
)


@triton.jit
def _rows(
    first, tile_offset, tile_rank, start0, count0, start1, count1, start2, count2,
    ROWS: tl.constexpr, TILE: tl.constexpr, IN: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Return rows of the group's list: their numbers, places in the arena, and which count."""
    row = first + tl.arange(0, ROWS)
    place = row // TILE
    tile = tl.where(place < count0, start0, start1 - count0) + place
    tile = tl.where(place < count0 + count1, tile, start2 - count0 - count1 + place)
    inside = place < count0 + count1 + count2
    begin, counts = tile_rows(tile_offset, tile_rank, tile, inside, row, TILE, SIZE)
    return row, inside, begin + (row % TILE) * IN, counts


@triton.jit
def _product(
    x_rows, token_inside, a_rows, counts, first, last,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    COMPUTE: tl.constexpr, X_CACHE: tl.constexpr,
):  # fmt: skip
    """Return ``x · aᵀ`` [TOKENS, ROWS] over the columns first..last."""
    acc = tl.zeros((TOKENS, ROWS), tl.float32)
    for start in range(bound(first), bound(last), COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = (column < last)[None, :]
        x_at, x_mask = x_rows[:, None] + column[None, :], token_inside[:, None] & inside
        x = tl.load(x_at, mask=x_mask, other=0, cache_modifier=X_CACHE)
        a = tl.load(a_rows[:, None] + column[None, :], mask=counts[:, None] & inside, other=0)
        acc = dot(x.to(COMPUTE), tl.trans(a.to(COMPUTE)), acc)
    return acc


@triton.jit
def _product_of_one(
    x_row, a_rows, counts, first, last,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, X_CACHE: tl.constexpr,
):  # fmt: skip
    """Return what ``_product`` does for a single token, in its first row."""
    acc = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(bound(first), bound(last), COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        inside = column < last
        x = tl.load(x_row + column, mask=inside, other=0, cache_modifier=X_CACHE).to(tl.float32)
        mask = counts[:, None] & inside[None, :]
        a = tl.load(a_rows[:, None] + column[None, :], mask=mask, other=0)
        acc += a.to(tl.float32) * x[None, :]
    return tl.broadcast_to(tl.sum(acc, 1)[None, :], (TOKENS, ROWS))


@triton.jit
def _shrink_rows(
    first, x, x_stride, h_rows, token, token_inside, weights, first_column, last_column,
    tile_offset, tile_rank, start0, count0, start1, count1, start2, count2, tokens,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
    IN: tl.constexpr, SIZE: tl.constexpr, COMPUTE: tl.constexpr, ONE: tl.constexpr,
    X_CACHE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    row, inside, begin, counts = _rows(
        first, tile_offset, tile_rank, start0, count0, start1, count1, start2, count2,
        ROWS, TILE, IN, SIZE,
    )  # fmt: skip
    wait_for_inputs(PDL)
    a_rows = weights + begin
    x_rows = x + token * x_stride
    if ONE and tokens == 1:
        x_row = x + tl.max(token, 0) * x_stride
        acc = _product_of_one(
            x_row, a_rows, counts, first_column, last_column, TOKENS, ROWS, COLUMNS, X_CACHE
        )
    else:
        acc = _product(
            x_rows, token_inside, a_rows, counts, first_column, last_column,
            TOKENS, ROWS, COLUMNS, COMPUTE, X_CACHE,
        )  # fmt: skip
    mask = token_inside[:, None] & inside[None, :]
    tl.store(h_rows[:, None] + row[None, :], acc, mask=mask)


@triton.jit(do_not_specialize=NUMBERS, do_not_specialize_on_alignment=TABLES)
def shrink_kernel(
    x, x_stride, h, width, tokens_in_all, arena,
    tile_start, tile_count, start_stride, count_stride, tile_offset, tile_rank,
    order, segment_slot, segment_start, num_segments, max_segments, i0, i1, i2,
    plan,
    SITES: tl.constexpr, IN: tl.constexpr, TILE: tl.constexpr, WEIGHT: tl.constexpr,
    COMPUTE: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, MANY_ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, MANY_COLUMNS: tl.constexpr, STEPS: tl.constexpr, PROGRAMS: tl.constexpr,
    PIECES: tl.constexpr, CHUNKS: tl.constexpr, ONE: tl.constexpr, X_IS_KNOWN: tl.constexpr,
    PDL: tl.constexpr, OUT0: tl.constexpr = 0, OUT1: tl.constexpr = 0, OUT2: tl.constexpr = 0,
    FEW_TILES: tl.constexpr = 0, OUT_COLUMNS: tl.constexpr = 0, BLOCKS: tl.constexpr = 0,
    SHARED_BY: tl.constexpr = 0, SHARED_BY_MANY: tl.constexpr = 0, MOST_PARTS: tl.constexpr = 0,
):  # fmt: skip
    """Program (piece of the input of a work item, chunk of rank rows).

    ``plan``: room for expand's, if shrink is to write it. The arguments after ``PDL`` are expand's,
    ``OUT_COLUMNS`` its ``COLUMNS``.

    ``X_IS_KNOWN``: the kernel before this one is the linear that reads x too. It lets others start
    when it has x, so that x is there when this starts, and only the linear is left to wait for: in
    the end, for those that come next rely on it. Nothing but x is read that is not always there.
    """
    # A multiprocessor may still hold what lay there before x, as nothing has been waited for.
    X_CACHE: tl.constexpr = ".cg" if X_IS_KNOWN else ""
    EARLY: tl.constexpr = PDL and not X_IS_KNOWN
    let_next_start(PDL)
    items = count_items(segment_start, num_segments, TOKENS)
    pieces, steps = share_steps(items, STEPS, PROGRAMS, PIECES)
    item, piece = tl.program_id(0) % items, tl.program_id(0) // items
    slot, place, tokens = find_tokens(
        item, segment_slot, segment_start, num_segments, max_segments, TOKENS
    )
    if piece >= pieces:
        wait_for_inputs(PDL)
        return
    start0, count0, start1, count1, start2, count2 = tile_ranges(
        tile_start, tile_count, start_stride, count_stride, slot, i0, i1, i2, SITES
    )
    if plan is not None:  # noqa: SIM102 - known when this is compiled, the next is not
        if piece == 0 and tl.program_id(1) == 0:
            write_plan(
                plan, item, items, slot, place, tokens, pieces,
                start0, count0, start1, count1, start2, count2,
                tile_start, tile_count, start_stride, count_stride, segment_slot, num_segments,
                i0, i1, i2, SITES, OUT0, OUT1, OUT2, FEW_TILES, OUT_COLUMNS, BLOCKS,
                SHARED_BY, SHARED_BY_MANY, MOST_PARTS, EARLY,
            )  # fmt: skip
    rows = tl.where(tokens > 0, (count0 + count1 + count2) * TILE, 0)
    chunk = tl.program_id(1)
    number = tl.arange(0, TOKENS)
    token_inside = number < tokens
    token = tl.load(order + place + number, mask=token_inside, other=0).to(tl.int64)
    h_rows = h + (piece.to(tl.int64) * tokens_in_all + place + number) * width
    weights = arena.to(tl.pointer_type(WEIGHT), bitcast=True)
    size: tl.constexpr = WEIGHT.primitive_bitwidth // 8
    first_column = piece * steps * COLUMNS
    last_column = tl.minimum(first_column + steps * COLUMNS, IN)
    if rows <= CHUNKS * ROWS:
        if chunk * ROWS < rows:
            _shrink_rows(
                chunk * ROWS, x, x_stride, h_rows, token, token_inside, weights,
                first_column, last_column, tile_offset, tile_rank,
                start0, count0, start1, count1, start2, count2, tokens,
                TOKENS, ROWS, COLUMNS, TILE, IN, size, COMPUTE, ONE, X_CACHE, EARLY,
            )  # fmt: skip
        else:
            wait_for_inputs(EARLY)
    else:
        wait_for_inputs(EARLY)
        for first in range(bound(chunk * MANY_ROWS), bound(rows), CHUNKS * MANY_ROWS):
            _shrink_rows(
                first, x, x_stride, h_rows, token, token_inside, weights,
                first_column, last_column, tile_offset, tile_rank,
                start0, count0, start1, count1, start2, count2, tokens,
                TOKENS, MANY_ROWS, MANY_COLUMNS, TILE, IN, size, COMPUTE, ONE, X_CACHE, False,
            )  # fmt: skip
    if X_IS_KNOWN:
        wait_for_inputs(PDL)


@triton.jit(do_not_specialize=NUMBERS, do_not_specialize_on_alignment=TABLES)
def gather_kernel(
    ids, h, width, arena,
    tile_start, tile_count, start_stride, count_stride, tile_offset, tile_rank,
    order, segment_slot, segment_start, num_segments, max_segments, i0, i1, i2,
    SITES: tl.constexpr, IN: tl.constexpr, TILE: tl.constexpr, WEIGHT: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (work item) of ``embed`` sites: the columns of A that the token ids name."""
    let_next_start(PDL)
    wait_for_inputs(PDL)
    slot, place, tokens = find_tokens(
        tl.program_id(0), segment_slot, segment_start, num_segments, max_segments, TOKENS
    )
    if tokens <= 0:
        return
    start0, count0, start1, count1, start2, count2 = tile_ranges(
        tile_start, tile_count, start_stride, count_stride, slot, i0, i1, i2, SITES
    )
    rows = (count0 + count1 + count2) * TILE
    number = tl.arange(0, TOKENS)
    token_inside = number < tokens
    token = tl.load(order + place + number, mask=token_inside, other=0)
    column = tl.load(ids + token, mask=token_inside, other=0)
    h_rows = h + (place + number).to(tl.int64) * width
    weights = arena.to(tl.pointer_type(WEIGHT), bitcast=True)
    size: tl.constexpr = WEIGHT.primitive_bitwidth // 8
    for first in range(0, bound(rows), ROWS):
        row, inside, begin, counts = _rows(
            first, tile_offset, tile_rank, start0, count0, start1, count1, start2, count2,
            ROWS, TILE, IN, size,
        )  # fmt: skip
        mask = token_inside[:, None] & counts[None, :]
        a = tl.load(weights + begin[None, :] + column[:, None], mask=mask, other=0)
        mask = token_inside[:, None] & inside[None, :]
        tl.store(h_rows[:, None] + row[None, :], a.to(tl.float32), mask=mask)
