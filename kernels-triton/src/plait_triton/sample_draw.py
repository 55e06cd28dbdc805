"""The draw of ``sample``: from the weights that are kept, in order of id."""

from __future__ import annotations

import triton
import triton.language as tl

from plait_triton.language import let_next_start, wait_for_inputs
from plait_triton.philox import uniform
from plait_triton.sample_rows import (
    PARTS,
    greedy_id,
    load_chunk,
    load_largest,
    weights_in_top_k,
    weights_of,
)


@triton.jit
def _kept_weights(values, largest, temperature, least_of_top_k, least_of_top_p, min_p):
    """Return the weights of logits, 0 where an option drops them."""
    weights = weights_in_top_k(values, largest, temperature, least_of_top_k)
    least = weights_of(least_of_top_p, largest, temperature)
    return tl.where((weights >= least) & (weights >= min_p.to(tl.float64)), weights, 0.0)


@triton.jit(do_not_specialize_on_alignment=PARTS)
def weigh_kernel(
    logits,
    stride,
    vocab,
    temperature,
    min_p,
    largest,
    least_of_top_k,
    least_of_top_p,
    sums,
    CHUNKS: tl.constexpr,
    CHUNKS_POWER: tl.constexpr,
    CHUNK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Store the sum of the weights that are kept of each chunk."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    heat = tl.load(temperature + row)
    if heat != 0.0:
        _, values = load_chunk(logits, stride, row, chunk, vocab, CHUNK)
        top = load_largest(largest, row, CHUNKS, CHUNKS_POWER)
        by_k, by_p = tl.load(least_of_top_k + row), tl.load(least_of_top_p + row)
        weights = _kept_weights(values, top, heat, by_k, by_p, tl.load(min_p + row))
        tl.store(sums + row * CHUNKS + chunk, tl.sum(weights, axis=0))


@triton.jit(do_not_specialize_on_alignment=PARTS)
def draw_kernel(
    logits,
    stride,
    vocab,
    temperature,
    min_p,
    seed,
    position,
    largest,
    largest_id,
    least_of_top_k,
    least_of_top_p,
    sums,
    tokens,
    CHUNKS: tl.constexpr,
    CHUNKS_POWER: tl.constexpr,
    CHUNK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Store the token of each row: the argmax, or the draw."""
    row = tl.program_id(0).to(tl.int64)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    heat = tl.load(temperature + row)
    if heat == 0.0:
        token = greedy_id(largest, largest_id, row, CHUNKS, CHUNKS_POWER)
    else:
        index = tl.arange(0, CHUNKS_POWER)
        sum_of = tl.load(sums + row * CHUNKS + index, mask=index < CHUNKS, other=0.0)
        cumulative = tl.cumsum(sum_of, axis=0)
        whole = tl.max(cumulative, axis=0)
        drawn = uniform(tl.load(seed + row), tl.load(position + row)) * whole
        beyond = (cumulative > drawn) & (sum_of > 0.0)
        chunk = tl.min(tl.where(beyond, index, CHUNKS - 1), axis=0)
        before = tl.max(tl.where(index < chunk, cumulative, 0.0), axis=0)
        ids, values = load_chunk(logits, stride, row, chunk, vocab, CHUNK)
        top = load_largest(largest, row, CHUNKS, CHUNKS_POWER)
        by_k, by_p = tl.load(least_of_top_k + row), tl.load(least_of_top_p + row)
        weights = _kept_weights(values, top, heat, by_k, by_p, tl.load(min_p + row))
        kept = weights > 0.0
        exceeds = kept & (before + tl.cumsum(weights, axis=0) > drawn)
        # Rounding may leave the chunk's last sum short of what its whole sum exceeds; then, and
        # only then, this id is the smallest.
        last = tl.max(tl.where(kept, ids, 0), axis=0)
        token = tl.min(tl.where(exceeds, ids, last), axis=0)
    tl.store(tokens + row, token.to(tl.int64))
