"""What the programs of ``lora`` read first: which tokens they take, and where the tiles lie."""

from __future__ import annotations

import triton
import triton.language as tl

from plait_triton.language import bound

ALIGNMENT = tl.constexpr(64)
"""Offsets in the arena are multiples of this many bytes."""

_SCAN = tl.constexpr(256)

TABLES = (
    *("tile_start", "tile_count", "tile_offset", "tile_rank", "tile_scale"),
    *("dense_start", "dense_count", "dense_kind", "dense_offset", "dense_index", "dense_weight"),
)
"""Arguments that lie anywhere, as they are parts of other tensors or are read from anywhere on."""

NUMBERS = (
    *("max_segments", "tokens_in_all", "i0", "i1", "i2"),
    *("start_stride", "count_stride", "dense_start_stride", "dense_count_stride"),
)
"""Numbers of the batch, of the layer and of the tables: kernels are compiled for any of them."""


@triton.jit
def find_tokens(
    work, segment_slot, segment_start, num_segments, max_segments, TOKENS: tl.constexpr
):
    """Return slot, first place in the work list, and number of tokens of a work item.

    Like all that is read here it may be read before ``wait_for_inputs``.

    Segment s owns the work items from ``segment_start[s] // TOKENS + s`` up to the next one's,
    which are as many as its blocks of ``TOKENS`` tokens or one more: no prefix sum is needed, and
    ``tokens // TOKENS + segments`` items are enough for any batch. No token: 0 or less.
    """
    count = tl.load(num_segments)
    found = 0
    for first in range(0, bound(max_segments), _SCAN):
        segment = first + tl.arange(0, _SCAN)
        start = tl.load(segment_start + segment, mask=segment < max_segments, other=0)
        begins = (segment < count) & (segment < max_segments)
        begins = begins & (start // TOKENS + segment <= work)
        found += tl.sum(begins.to(tl.int32))
    segment = found - 1
    exists = found > 0
    slot = tl.load(segment_slot + segment, mask=exists, other=0)
    start = tl.load(segment_start + segment, mask=exists, other=0)
    end = tl.load(segment_start + found, mask=exists, other=0)
    place = start + (work - start // TOKENS - segment) * TOKENS
    return slot, place, tl.minimum(end - place, TOKENS)


@triton.jit
def count_items(segment_start, num_segments, TOKENS: tl.constexpr):
    """Return the work items of the batch, at least 1: one past the last that ``find_tokens`` finds.

    Programs are dealt to them in turn, so that few items get many programs each.
    """
    segments = tl.load(num_segments)
    return tl.maximum(tl.load(segment_start + segments) // TOKENS + segments, 1)


@triton.jit
def share_steps(items, STEPS: tl.constexpr, PROGRAMS: tl.constexpr, MOST: tl.constexpr):
    """Return into how many pieces of how many steps shrink cuts the input of each item.

    ``PROGRAMS`` share the ``STEPS`` steps of all items, up to ``MOST`` those of one.
    """
    pieces = tl.minimum(tl.maximum(PROGRAMS // items, 1), MOST)
    steps = (STEPS + pieces - 1) // pieces
    return (STEPS + steps - 1) // steps, steps


@triton.jit
def tile_ranges(
    tile_start, tile_count, start_stride, count_stride, slot, i0, i1, i2, SITES: tl.constexpr
):
    """Return first tile and number of tiles of a slot at up to three sites, 0 past ``SITES``."""
    starts = tile_start + slot.to(tl.int64) * start_stride
    counts = tile_count + slot.to(tl.int64) * count_stride
    start0, count0 = tl.load(starts + i0), tl.load(counts + i0)
    start1, count1, start2, count2 = 0, 0, 0, 0
    if SITES > 1:
        start1, count1 = tl.load(starts + i1), tl.load(counts + i1)
    if SITES > 2:
        start2, count2 = tl.load(starts + i2), tl.load(counts + i2)
    return start0, count0, start1, count1, start2, count2


@triton.jit
def tile_rows(tile_offset, tile_rank, tile, inside, row, TILE: tl.constexpr, SIZE: tl.constexpr):
    """Return where the tiles of rank rows begin, in elements of ``SIZE`` bytes, and who counts.

    ``row`` is numbered within a list of whole tiles, ``tile`` is its tile. A row past its tile's
    rank does not count, nor does one that is not ``inside``.
    """
    offset = tl.load(tile_offset + tile, mask=inside, other=0)
    rank = tl.load(tile_rank + tile, mask=inside, other=0)
    # Written so that the compiler sees the alignment.
    return (offset // ALIGNMENT) * (ALIGNMENT // SIZE), row % TILE < rank
