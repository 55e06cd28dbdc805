"""What expand adds to columns of y: ``h · Bᵀ`` of a work item at one site, and dense entries."""

from __future__ import annotations

import triton
import triton.language as tl

from plait_triton.language import bound, dot
from plait_triton.lora_dense import replace_rows, scale_and_add
from plait_triton.lora_tables import tile_rows


@triton.jit
def rank_rows(
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
def scaled_hidden(
    h_rows, h_piece, pieces, token_inside, token_weight, row, inside, counts, scale,
    TOKENS: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Return scaled h [TOKENS, rows]: the sum of the pieces."""
    # Shrink wrote all rows of a tile: so masked, they are read several at a time.
    mask = token_inside[:, None] & inside[None, :]
    h = tl.zeros((TOKENS, row.shape[0]), tl.float32)
    # Unrolled, so that they are all on their way at the same time.
    for piece in tl.static_range(PIECES):
        at = h_rows[:, None] + (piece * h_piece + row)[None, :]
        # A comparison of many: that of a number with a number is not combined with them, see
        # kv_write. The compiler makes one of it.
        exists = row * 0 + piece < pieces
        h += tl.load(at, mask=mask & exists[None, :], other=0)
    return tl.where(counts[None, :], h, 0) * (scale[None, :] * token_weight[:, None])


@triton.jit
def load_b(b_rows, counts, column, column_inside):
    """Return b [rows, columns]."""
    mask = counts[:, None] & column_inside[None, :]
    return tl.load(b_rows[:, None] + column[None, :], mask=mask, other=0)


@triton.jit
def add_product(acc, h, b, COMPUTE: tl.constexpr):
    """Return ``acc + h · b``."""
    high = h.to(COMPUTE)
    acc = dot(high, b.to(COMPUTE), acc)
    if COMPUTE.primitive_bitwidth < 32:
        # A second term of 16 bits keeps what rounding h once would lose.
        acc = dot((h - high.to(tl.float32)).to(COMPUTE), b, acc)
    return acc


@triton.jit
def add_further_products(
    acc, h_rows, h_piece, pieces, token_inside, token_weight, column, column_inside, weights,
    tile_offset, tile_rank, tile_scale, start, count, out,
    ROWS: tl.constexpr, MANY_ROWS: tl.constexpr, TILE: tl.constexpr, IN: tl.constexpr,
    ALIGNED: tl.constexpr, SIZE: tl.constexpr, TOKENS: tl.constexpr, PIECES: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """Return ``acc`` and the products of the rank rows from ``ROWS`` on."""
    for first in range(ROWS, bound(count * TILE), MANY_ROWS):
        row, inside, counts, scale, b_rows = rank_rows(
            first, tile_offset, tile_rank, tile_scale, start, count, out,
            MANY_ROWS, TILE, IN, ALIGNED, SIZE,
        )  # fmt: skip
        h = scaled_hidden(
            h_rows, h_piece, pieces, token_inside, token_weight, row, inside, counts, scale,
            TOKENS, PIECES,
        )  # fmt: skip
        b = load_b(weights + b_rows, counts, column, column_inside)
        acc = add_product(acc, h, b, COMPUTE)
    return acc


@triton.jit
def updated(
    before, acc, x, x_stride, token, token_inside, token_weight, column, column_inside, arena,
    dense_kind, dense_offset, dense_index, dense_weight, first_entry, dense_entries,
    TOKENS: tl.constexpr, IN: tl.constexpr, DENSE: tl.constexpr, EMBED: tl.constexpr,
    WEIGHT: tl.constexpr,
):  # fmt: skip
    """Return what y becomes, float32 [TOKENS, columns], of ``before`` and all products."""
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
    return value
