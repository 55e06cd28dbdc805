"""The plan of expand: what each of its programs does, worked out by itself or by shrink.

From a program's number to its tiles leads a chain of loads, each of which waits for the one before.
Where expand starts when all before it is done, as after a linear of cuBLAS, they would be most of
its time: shrink, which has made them all, writes the plan, and a program begins with a single load.
Of a few tokens expand starts so early that all it finds out by itself costs nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl

from plait_triton.language import wait_for_inputs
from plait_triton.lora_tables import tile_ranges

PLAN_FIELDS = 16
"""int32 numbers of a program's plan; as many come before the first, of which one is used."""

_FIELDS = tl.constexpr(PLAN_FIELDS)


@triton.jit
def longest_tiles(
    tile_start, tile_count, start_stride, count_stride, segment_slot, num_segments, i0, i1, i2,
    SITES: tl.constexpr,
):  # fmt: skip
    """Return how many tiles the longest mix of the batch has at each site."""
    # The mix that comes first has the most tiles; without a mix anything may stand there.
    longest = tl.where(tl.load(num_segments) > 0, tl.load(segment_slot), 0)
    _, most0, _, most1, _, most2 = tile_ranges(
        tile_start, tile_count, start_stride, count_stride, longest, i0, i1, i2, SITES
    )
    return most0, most1, most2


@triton.jit
def count_parts(span, OUT0: tl.constexpr, OUT1: tl.constexpr, OUT2: tl.constexpr):
    """Return how many programs a work item has, each of ``span`` columns of one site."""
    return (OUT0 + span - 1) // span + (OUT1 + span - 1) // span + (OUT2 + span - 1) // span


@triton.jit
def shared_span(
    items, most0, most1, most2,
    OUT0: tl.constexpr, OUT1: tl.constexpr, OUT2: tl.constexpr, FEW_TILES: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCKS: tl.constexpr, SHARED_BY: tl.constexpr,
    SHARED_BY_MANY: tl.constexpr,
):  # fmt: skip
    """Return how many columns a program takes where programs share those of all work items.

    ``most`` are the tiles that the longest mix has at each site.
    """
    is_long = tl.maximum(tl.maximum(most0, most1), most2) > FEW_TILES
    programs = tl.where(is_long, SHARED_BY_MANY, SHARED_BY)
    # The fewer items there are, the more programs share the blocks of each.
    blocks = items * count_parts(COLUMNS, OUT0, OUT1, OUT2)
    span = COLUMNS * tl.maximum((blocks + programs - 1) // programs, BLOCKS)
    # A few programs too many would run when all others are done. Those of sites without a tile end
    # at once.
    busy = tl.where(most0 > 0, (OUT0 + span - 1) // span, 0)
    busy += tl.where(most1 > 0, (OUT1 + span - 1) // span, 0)
    busy += tl.where(most2 > 0, (OUT2 + span - 1) // span, 0)
    return span + tl.where(items * busy > programs, COLUMNS, 0)


@triton.jit
def part_of_site(
    part, span, start0, count0, start1, count1, start2, count2,
    OUT0: tl.constexpr, OUT1: tl.constexpr, OUT2: tl.constexpr, SITES: tl.constexpr,
):  # fmt: skip
    """Return what part (or parts) of a work item stand for.

    That is: the site, the first column and the one past the last, the first tile and the tiles of
    the item's mix there, and its tiles at the sites before.
    """
    parts0 = (OUT0 + span - 1) // span
    parts1 = (OUT1 + span - 1) // span
    # Of the shape of ``part``, be it a number or many.
    zero = part * 0
    site, of_site, out = zero, part, zero + OUT0
    start, count, before = zero + start0, zero + count0, zero
    if SITES > 1:
        follows = part >= parts0
        site, of_site = tl.where(follows, 1, site), tl.where(follows, part - parts0, of_site)
        out, before = tl.where(follows, OUT1, out), tl.where(follows, count0, before)
        start, count = tl.where(follows, start1, start), tl.where(follows, count1, count)
    if SITES > 2:
        follows = part >= parts0 + parts1
        site = tl.where(follows, 2, site)
        of_site = tl.where(follows, part - parts0 - parts1, of_site)
        out, before = tl.where(follows, OUT2, out), tl.where(follows, count0 + count1, before)
        start, count = tl.where(follows, start2, start), tl.where(follows, count2, count)
    first = of_site * span
    return site, first, tl.minimum(first + span, out), start, count, before


@triton.jit
def write_plan(
    plan, item, items, slot, place, tokens, pieces, start0, count0, start1, count1, start2, count2,
    tile_start, tile_count, start_stride, count_stride, segment_slot, num_segments, i0, i1, i2,
    SITES: tl.constexpr, OUT0: tl.constexpr, OUT1: tl.constexpr, OUT2: tl.constexpr,
    FEW_TILES: tl.constexpr, COLUMNS: tl.constexpr, BLOCKS: tl.constexpr, SHARED_BY: tl.constexpr,
    SHARED_BY_MANY: tl.constexpr, MOST_PARTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Write what a work item's programs do, and how many programs there are in all."""
    most0, most1, most2 = longest_tiles(
        tile_start, tile_count, start_stride, count_stride, segment_slot, num_segments,
        i0, i1, i2, SITES,
    )  # fmt: skip
    span = shared_span(
        items, most0, most1, most2, OUT0, OUT1, OUT2, FEW_TILES, COLUMNS, BLOCKS,
        SHARED_BY, SHARED_BY_MANY,
    )  # fmt: skip
    parts = count_parts(span, OUT0, OUT1, OUT2)
    part = tl.arange(0, MOST_PARTS)
    exists = part < parts
    site, first, last, start, count, before = part_of_site(
        part, span, start0, count0, start1, count1, start2, count2, OUT0, OUT1, OUT2, SITES
    )
    wait_for_inputs(PDL)
    tl.store(plan, items * parts)
    # The first programs are those of the items that come first, the longest.
    at = plan + (1 + item * parts + part) * _FIELDS
    tl.store(at, slot, mask=exists)
    tl.store(at + 1, place, mask=exists)
    tl.store(at + 2, tokens, mask=exists)
    tl.store(at + 3, pieces, mask=exists)
    tl.store(at + 4, site, mask=exists)
    tl.store(at + 5, first, mask=exists)
    tl.store(at + 6, last, mask=exists)
    tl.store(at + 7, start, mask=exists)
    tl.store(at + 8, count, mask=exists)
    tl.store(at + 9, before, mask=exists)


@triton.jit
def read_plan(plan, program):
    """Return what ``write_plan`` wrote for a program; no tokens where there is no such program."""
    programs = tl.load(plan)
    at = plan + (1 + program) * _FIELDS
    slot, place, tokens, pieces = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
    site, first, last = tl.load(at + 4), tl.load(at + 5), tl.load(at + 6)
    start, count, before = tl.load(at + 7), tl.load(at + 8), tl.load(at + 9)
    tokens = tl.where(program < programs, tokens, 0)
    return slot, place, tokens, pieces, site, first, last, start, count, before
