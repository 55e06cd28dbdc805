"""What the kernels of ``sample`` share: the extremes of a row, and what a logit weighs.

A row is cut into CHUNKS chunks of CHUNK logits, a program each; CHUNKS_POWER is CHUNKS rounded up
to a power of two. Arithmetic follows the contract's to the bit where it decides what is kept.
"""

from __future__ import annotations

import triton
import triton.language as tl

from plait_triton.language import let_next_start, wait_for_inputs

PARTS = (
    *("temperature", "top_k", "top_p", "min_p", "seed", "position", "largest", "smallest"),
    *("least_kept", "least_of_top_k", "least_of_top_p", "found"),
)
"""Arguments that are parts of one tensor, and so begin anywhere: what is read of them is little."""


@triton.jit
def load_chunk(logits, stride, row, chunk, vocab, CHUNK: tl.constexpr):
    """Return the ids of a chunk of a row and their logits, -∞ past the end."""
    ids = chunk * CHUNK + tl.arange(0, CHUNK)
    return ids, tl.load(logits + row * stride + ids, mask=ids < vocab, other=-float("inf"))


@triton.jit
def load_largest(largest, row, CHUNKS: tl.constexpr, CHUNKS_POWER: tl.constexpr):
    """Return the largest logit of a row."""
    chunk = tl.arange(0, CHUNKS_POWER)
    found = tl.load(largest + row * CHUNKS + chunk, mask=chunk < CHUNKS, other=-float("inf"))
    return tl.max(found, axis=0)


@triton.jit
def weights_of(values, largest, temperature):
    """Return the weights of logits, float64; the largest has 1."""
    shifted = tl.div_rn(values, temperature) - tl.div_rn(largest, temperature)
    return tl.exp(shifted.to(tl.float64))


@triton.jit
def weights_in_top_k(values, largest, temperature, least_kept):
    """Return the weights of logits, 0 where top_k drops them."""
    kept = tl.div_rn(values, temperature) >= tl.div_rn(least_kept, temperature)
    return tl.where(kept, weights_of(values, largest, temperature), 0.0)


@triton.jit(do_not_specialize_on_alignment=PARTS)
def extremes_kernel(
    logits,
    stride,
    vocab,
    largest,
    largest_id,
    smallest,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    PDL: tl.constexpr,
):
    """Store the largest logit of each chunk, its lowest id, and the smallest finite logit."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    ids, values = load_chunk(logits, stride, row, chunk, vocab, CHUNK)
    top = tl.max(values, axis=0)
    place = row * CHUNKS + chunk
    tl.store(largest + place, top)
    tl.store(largest_id + place, tl.min(tl.where(values == top, ids, vocab - 1), axis=0))
    finite = tl.where(values > -float("inf"), values, float("inf"))
    tl.store(smallest + place, tl.min(finite, axis=0))


@triton.jit
def greedy_id(largest, largest_id, row, CHUNKS: tl.constexpr, CHUNKS_POWER: tl.constexpr):
    """Return the lowest id among those of the row's largest logit."""
    chunk = tl.arange(0, CHUNKS_POWER)
    exists = chunk < CHUNKS
    found = tl.load(largest + row * CHUNKS + chunk, mask=exists, other=-float("inf"))
    ids = tl.load(largest_id + row * CHUNKS + chunk, mask=exists, other=2147483647)
    return tl.min(tl.where(found == tl.max(found, axis=0), ids, 2147483647), axis=0)


@triton.jit(do_not_specialize_on_alignment=PARTS)
def greedy_kernel(
    largest,
    largest_id,
    tokens,
    CHUNKS: tl.constexpr,
    CHUNKS_POWER: tl.constexpr,
    PDL: tl.constexpr,
):
    """Store the argmax of each row."""
    row = tl.program_id(0).to(tl.int64)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    found = greedy_id(largest, largest_id, row, CHUNKS, CHUNKS_POWER)
    tl.store(tokens + row, found.to(tl.int64))
