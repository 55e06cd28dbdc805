"""The selections of ``sample``: the smallest logit of a row that top_k or top_p keeps.

Both look for the same thing: the largest logit v of the row such that the tokens of logit v and
more have together the mass that is asked for. The mass of a token is 1 and k is asked for (top_k),
or it is the token's weight and top_p of their sum is asked for (top_p). That v is a logit serves
both, as neither division nor subtraction changes an order. No order of the row is needed:

1. ``measure_kernel``: the mass at and above each of BINS levels between two logits of the row,
   chunk by chunk. v lies between the last level that reaches what is asked for and the next.
2. ``gather_kernel``: the logits between the two, chunk by chunk. They are few.
3. ``narrow_kernel``: a program a row measures these again, between the smallest and the largest
   of them, until one is left or all that are left are equal.

Every sum has a fixed order. Rows without the option leave each kernel at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from plait_triton.language import let_next_start, wait_for_inputs
from plait_triton.sample_rows import PARTS, load_chunk, load_largest, weights_in_top_k


@triton.jit
def _is_limited(temperature, top_k, top_p, vocab, BY_COUNT: tl.constexpr):
    """Say whether the row has the option."""
    limited = (top_k > 0) & (top_k < vocab) if BY_COUNT else top_p < 1.0
    return limited & (temperature != 0.0)


@triton.jit
def _masses(values, largest, temperature, least_kept, BY_COUNT: tl.constexpr):
    """Return the mass of each logit: int32 to count, float64 to weigh."""
    if BY_COUNT:
        mass = (values > -float("inf")).to(tl.int32)
    else:
        mass = weights_in_top_k(values, largest, temperature, least_kept)
    return mass


@triton.jit
def _lowest_level(
    smallest,
    row,
    largest,
    lowest_shift,
    BY_COUNT: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_POWER: tl.constexpr,
):
    """Return a logit of the row, or less, that v cannot be below."""
    chunk = tl.arange(0, CHUNKS_POWER)
    found = tl.load(smallest + row * CHUNKS + chunk, mask=chunk < CHUNKS, other=float("inf"))
    low = tl.min(found, axis=0)
    if not BY_COUNT:
        low = tl.maximum(low, largest - lowest_shift)
    return low


@triton.jit(do_not_specialize_on_alignment=PARTS)
def measure_kernel(
    logits,
    stride,
    vocab,
    temperature,
    top_k,
    top_p,
    largest,
    smallest,
    least_kept,
    levels,
    masses,
    reach,
    BY_COUNT: tl.constexpr,
    BINS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_POWER: tl.constexpr,
    CHUNK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Store the levels of each row and the masses of each chunk: at and above them, and whole."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    heat, k, p = tl.load(temperature + row), tl.load(top_k + row), tl.load(top_p + row)
    if _is_limited(heat, k, p, vocab, BY_COUNT):
        _, values = load_chunk(logits, stride, row, chunk, vocab, CHUNK)
        top = load_largest(largest, row, CHUNKS, CHUNKS_POWER)
        low = _lowest_level(smallest, row, top, reach * heat, BY_COUNT, CHUNKS, CHUNKS_POWER)
        mass = _masses(values, top, heat, tl.load(least_kept + row), BY_COUNT)
        place = masses + (row * CHUNKS + chunk) * (2 * BINS)
        tl.store(place + BINS, tl.sum(mass, axis=0))
        for index in tl.static_range(BINS):
            level = low * (1.0 - index / BINS) + top * (index / BINS)
            tl.store(place + index, tl.sum(tl.where(values >= level, mass, 0), axis=0))
            # Stored, because worked out again elsewhere it may be rounded otherwise.
            if chunk == 0:
                tl.store(levels + row * BINS + index, level)


@triton.jit
def _load_masses(
    masses, row, first, BINS: tl.constexpr, CHUNKS: tl.constexpr, CHUNKS_POWER: tl.constexpr
):
    """Return BINS masses of a row from ``first`` on, the chunks added up."""
    chunk, index = tl.arange(0, CHUNKS_POWER), first + tl.arange(0, BINS)
    place = (row * CHUNKS + chunk[:, None]) * (2 * BINS) + index[None, :]
    exists = (chunk[:, None] < CHUNKS) & (index[None, :] <= BINS)
    return tl.sum(tl.load(masses + place, mask=exists, other=0), axis=0)


@triton.jit
def _pick(vector, index, BINS: tl.constexpr):
    """Return one element of a vector of BINS, 0 past its end."""
    return tl.sum(tl.where(tl.arange(0, BINS) == index, vector, 0), axis=0)


@triton.jit
def _last_reached(mass, asked, BINS: tl.constexpr):
    """Return the index of the last level whose mass reaches what is asked for, −1 if none does."""
    return tl.max(tl.where(mass >= asked, tl.arange(0, BINS), -1), axis=0)


@triton.jit
def _mass_asked_for(
    masses,
    row,
    top_k,
    top_p,
    BY_COUNT: tl.constexpr,
    BINS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_POWER: tl.constexpr,
):
    if BY_COUNT:
        asked = top_k
    else:
        whole = _load_masses(masses, row, BINS, BINS, CHUNKS, CHUNKS_POWER)
        asked = top_p.to(tl.float64) * _pick(whole, 0, BINS)
    return asked


@triton.jit(do_not_specialize_on_alignment=PARTS)
def gather_kernel(
    logits,
    stride,
    vocab,
    temperature,
    top_k,
    top_p,
    levels,
    masses,
    candidates,
    counts,
    BY_COUNT: tl.constexpr,
    BINS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_POWER: tl.constexpr,
    CHUNK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Store the logits of each chunk between the last level that is reached and the next."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    heat, k, p = tl.load(temperature + row), tl.load(top_k + row), tl.load(top_p + row)
    if _is_limited(heat, k, p, vocab, BY_COUNT):
        _, values = load_chunk(logits, stride, row, chunk, vocab, CHUNK)
        asked = _mass_asked_for(masses, row, k, p, BY_COUNT, BINS, CHUNKS, CHUNKS_POWER)
        mass = _load_masses(masses, row, 0, BINS, CHUNKS, CHUNKS_POWER)
        index = _last_reached(mass, asked, BINS)
        some = index >= 0
        low = tl.load(levels + row * BINS + index, mask=some, other=float("inf"))
        bounded = some & (index < BINS - 1)
        high = tl.load(levels + row * BINS + index + 1, mask=bounded, other=float("inf"))
        inside = (values >= low) & (values < high)
        rank = tl.cumsum(inside.to(tl.int32), axis=0) - 1
        place = row * CHUNKS + chunk
        tl.store(candidates + place * CHUNK + rank, values, mask=inside)
        tl.store(counts + place, tl.sum(inside.to(tl.int32), axis=0))


@triton.jit
def _load_candidates(
    candidates,
    counts,
    row,
    start,
    low,
    high,
    CHUNKS: tl.constexpr,
    CHUNKS_POWER: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Return WIDTH candidates of every chunk and which of them lie in low … high."""
    chunk = tl.arange(0, CHUNKS_POWER)
    found = tl.load(counts + row * CHUNKS + chunk, mask=chunk < CHUNKS, other=0)
    index = start + tl.arange(0, WIDTH)
    exists = index[None, :] < found[:, None]
    place = (row * CHUNKS + chunk[:, None]) * CHUNK + index[None, :]
    values = tl.load(candidates + place, mask=exists, other=-float("inf"))
    return values, exists & (values >= low) & (values < high)


@triton.jit(do_not_specialize_on_alignment=PARTS)
def narrow_kernel(
    vocab,
    temperature,
    top_k,
    top_p,
    largest,
    least_kept,
    masses,
    candidates,
    counts,
    found,
    BY_COUNT: tl.constexpr,
    BINS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_POWER: tl.constexpr,
    CHUNK: tl.constexpr,
    WIDTH: tl.constexpr,
    PDL: tl.constexpr,
):
    """Store v of each row, -∞ where everything is kept."""
    row = tl.program_id(0).to(tl.int64)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    heat, k, p = tl.load(temperature + row), tl.load(top_k + row), tl.load(top_p + row)
    result = tl.full((), -float("inf"), tl.float32)
    if _is_limited(heat, k, p, vocab, BY_COUNT):
        least = result if BY_COUNT else tl.load(least_kept + row)
        top = load_largest(largest, row, CHUNKS, CHUNKS_POWER)
        asked = _mass_asked_for(masses, row, k, p, BY_COUNT, BINS, CHUNKS, CHUNKS_POWER)
        mass = _load_masses(masses, row, 0, BINS, CHUNKS, CHUNKS_POWER)
        index = _last_reached(mass, asked, BINS)
        above = _pick(mass, index + 1, BINS)  # of the logits above all candidates
        chunk = tl.arange(0, CHUNKS_POWER)
        most = tl.max(tl.load(counts + row * CHUNKS + chunk, mask=chunk < CHUNKS, other=0), axis=0)
        low = tl.full((), -float("inf"), tl.float32)
        high = tl.full((), float("inf"), tl.float32)
        level_index = tl.arange(0, BINS)
        searching = index >= 0
        while searching:
            least_value = tl.full((), float("inf"), tl.float32)
            most_value = tl.full((), -float("inf"), tl.float32)
            start = 0
            while start < most:
                values, inside = _load_candidates(
                    candidates, counts, row, start, low, high, CHUNKS, CHUNKS_POWER, CHUNK, WIDTH
                )
                smallest = tl.min(tl.where(inside, values, float("inf")), axis=None)
                least_value = tl.minimum(least_value, smallest)
                biggest = tl.max(tl.where(inside, values, -float("inf")), axis=None)
                most_value = tl.maximum(most_value, biggest)
                start += WIDTH
            part = level_index.to(tl.float32) / (BINS - 1)
            level = least_value * (1.0 - part) + most_value * part
            # The ends exactly: what lies at the upper end is the largest candidate.
            level = tl.where(level_index == 0, least_value, level)
            level = tl.where(level_index == BINS - 1, most_value, level)
            mass = tl.zeros([BINS], asked.dtype)
            start = 0
            while start < most:
                values, inside = _load_candidates(
                    candidates, counts, row, start, low, high, CHUNKS, CHUNKS_POWER, CHUNK, WIDTH
                )
                each = tl.where(inside, _masses(values, top, heat, least, BY_COUNT), 0)
                for bin_index in tl.static_range(BINS):
                    this = level_index == bin_index
                    reached = values >= tl.sum(tl.where(this, level, 0.0), axis=0)
                    mass += tl.where(this, tl.sum(tl.where(reached, each, 0), axis=None), 0)
                start += WIDTH
            index = _last_reached(above + mass, asked, BINS)
            # Rounding may keep the smallest candidate from reaching what it reached before.
            result = _pick(level, tl.maximum(index, 0), BINS)
            searching = (least_value < most_value) & (index >= 0) & (index < BINS - 1)
            low = result
            high = _pick(level, index + 1, BINS)
            above += _pick(mass, index + 1, BINS)
    tl.store(found + row, result)
