"""The work of a step's ``attention``, listed on the device once for all layers.

Rows with one query are cut into parts of about equal length, so that a few long rows keep the whole
device busy; rows with several are cut into blocks of queries. How long a list gets depends on the
lengths, how many programs walk it only on sizes that the host knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from plait_triton.language import bound, let_next_start, wait_for_inputs
from plait_triton.sizes import ceil_div, power_of_two

if TYPE_CHECKING:
    from plait_kernels.attention_types import AttentionBatch
    from plait_triton.attention_tiles import DecodeTiles
    from plait_triton.launching import Launcher

RECORD = tl.constexpr(8)
"""Numbers of a record. The first of a list is its head and holds the number of the others."""

_FEW_ROWS, _MANY_ROWS = 16, 128
"""Rows that the plan's programs look at together: of small steps and of others."""


def _rows_at_once(rows: int) -> int:
    return _FEW_ROWS if rows <= _FEW_ROWS else _MANY_ROWS


def plan_row_counts(most: int) -> tuple[int, ...]:
    """Return one number of rows, up to ``most``, of each kind that the plan tells apart."""
    return tuple({_rows_at_once(rows): rows for rows in (min(most, _FEW_ROWS), most)}.values())


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """A step's work.

    Attributes
    ----------
    block_table : Tensor, int32 [rows, max blocks]
    parts : Tensor, int32 [1 + most parts, 8]
        A part of a row with one query: token, row, its first key and the one after its last,
        its number in the row, parts of the row.
    blocks : Tensor, int32 [1 + most blocks, 8]
        Queries of a row with several: first token, row, position of the first, queries.
    arrived : Tensor, int32 [rows, kv_heads]
        Parts that are done; zero between launches.
    sums : Tensor, float32 [most parts, kv_heads, group, head_dim]
    scales : Tensor, float32 [most parts, kv_heads, 2, group]
        What a part leaves for the last of its row: weighted sum of values, largest score and sum
        of weights.
    """

    block_table: torch.Tensor
    parts: torch.Tensor
    blocks: torch.Tensor
    arrived: torch.Tensor
    sums: torch.Tensor
    scales: torch.Tensor


@dataclass(frozen=True)
class Planner:
    """Makes the plans of one config.

    Attributes
    ----------
    launcher : Launcher
    decode : DecodeTiles
    queries : int
        Queries of a block.
    window : int
        0: none.
    block_size, kv_heads, group, head_dim : int
    """

    launcher: Launcher
    decode: DecodeTiles
    queries: int
    window: int
    block_size: int
    kv_heads: int
    group: int
    head_dim: int

    def plan(self, batch: AttentionBatch) -> AttentionPlan:
        """List the work of a step, in one launch."""
        table = batch.block_table
        rows, width = table.shape
        device = table.device
        # Parts are all of one length, such that no more than ``shares`` of them are full.
        shares = ceil_div(self.decode.programs, self.kv_heads)
        longest = ceil_div(width * self.block_size, self.decode.keys * self.decode.least)
        parts = min(rows + shares, rows * longest)
        blocks = rows * ceil_div(batch.max_query, self.queries) if batch.max_query > 1 else 0
        split = parts if longest > 1 else 0
        numbers = partial(torch.empty, dtype=torch.int32, device=device)
        values = partial(torch.empty, dtype=torch.float32, device=device)
        plan = AttentionPlan(
            table,
            numbers((1 + parts, RECORD.value)),
            numbers((1 + blocks, RECORD.value)),
            numbers((rows, self.kv_heads)),
            values((split, self.kv_heads, self.group, self.head_dim)),
            values((split, self.kv_heads, 2, self.group)),
        )
        if rows:
            self.launcher.run(
                plan_kernel,
                (2 if blocks else 1,),
                batch.query_start,
                batch.kv_length,
                plan.parts,
                plan.blocks,
                plan.arrived,
                rows,
                shares,
                KV_HEADS=self.kv_heads,
                HEADS_BLOCK=power_of_two(self.kv_heads),
                KEYS=self.decode.keys,
                LEAST=self.decode.least,
                QUERIES=self.queries,
                WINDOW=self.window,
                ROWS=_rows_at_once(rows),
                **self.launcher.options(device),
            )
        return plan


@triton.jit(
    do_not_specialize=["rows", "shares"],
    do_not_specialize_on_alignment=["query_start", "kv_length"],
)
def plan_kernel(
    query_start,
    kv_length,
    parts,
    blocks,
    arrived,
    rows,
    shares,
    KV_HEADS: tl.constexpr,
    HEADS_BLOCK: tl.constexpr,
    KEYS: tl.constexpr,
    LEAST: tl.constexpr,
    QUERIES: tl.constexpr,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    wait_for_inputs(PDL)
    let_next_start(PDL)
    if tl.program_id(0) == 0:
        _list_parts(query_start, kv_length, parts, rows, shares, KEYS, LEAST, WINDOW, ROWS)
        head = tl.arange(0, HEADS_BLOCK)[None, :]
        for start in range(0, bound(rows), ROWS):
            row = start + tl.arange(0, ROWS)[:, None]
            inside = (row < rows) & (head < KV_HEADS)
            tl.store(arrived + row * KV_HEADS + head, tl.zeros_like(row + head), mask=inside)
    else:
        _list_blocks(query_start, kv_length, blocks, rows, QUERIES, ROWS)


@triton.jit
def _decode_rows(query_start, kv_length, row, rows, WINDOW: tl.constexpr):
    """Return token, first key and keys of rows; none of rows that have not one query."""
    token = tl.load(query_start + row, mask=row < rows, other=0)
    queries = tl.load(query_start + 1 + row, mask=row < rows, other=0) - token
    length = tl.load(kv_length + row, mask=(row < rows) & (queries == 1), other=0)
    begin = tl.maximum(length - WINDOW, 0) if WINDOW else tl.zeros_like(length)
    return token, begin, length - begin


@triton.jit
def _list_parts(
    query_start,
    kv_length,
    parts,
    rows,
    shares,
    KEYS: tl.constexpr,
    LEAST: tl.constexpr,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
):
    tiles = tl.zeros([ROWS], tl.int32)
    for start in range(0, bound(rows), ROWS):
        row = start + tl.arange(0, ROWS)
        _, _, keys = _decode_rows(query_start, kv_length, row, rows, WINDOW)
        tiles += (keys + KEYS - 1) // KEYS
    size = KEYS * tl.maximum((tl.sum(tiles) + shares - 1) // shares, LEAST)
    listed = 0
    for start in range(0, bound(rows), ROWS):
        row = start + tl.arange(0, ROWS)
        token, begin, keys = _decode_rows(query_start, kv_length, row, rows, WINDOW)
        count = (keys + size - 1) // size
        record = parts + (1 + listed + tl.cumsum(count) - count) * RECORD
        for part in range(0, bound(tl.max(count))):
            inside = part < count
            tl.store(record, token, mask=inside)
            tl.store(record + 1, row, mask=inside)
            tl.store(record + 2, begin + part * size, mask=inside)
            tl.store(record + 3, begin + tl.minimum(part * size + size, keys), mask=inside)
            tl.store(record + 4, tl.zeros_like(row) + part, mask=inside)
            tl.store(record + 5, count, mask=inside)
            record += RECORD
        listed += tl.sum(count)
    tl.store(parts, listed)


@triton.jit
def _list_blocks(query_start, kv_length, blocks, rows, QUERIES: tl.constexpr, ROWS: tl.constexpr):
    listed = 0
    for start in range(0, bound(rows), ROWS):
        row = start + tl.arange(0, ROWS)
        inside = row < rows
        token = tl.load(query_start + row, mask=inside, other=0)
        queries = tl.load(query_start + 1 + row, mask=inside, other=0) - token
        position = tl.load(kv_length + row, mask=inside, other=0) - queries
        count = tl.where(queries > 1, (queries + QUERIES - 1) // QUERIES, 0)
        record = blocks + (1 + listed + tl.cumsum(count) - count) * RECORD
        for block in range(0, bound(tl.max(count))):
            inside = block < count
            # A row's last block has the most keys: it starts first.
            first = (count - 1 - block) * QUERIES
            tl.store(record, token + first, mask=inside)
            tl.store(record + 1, row, mask=inside)
            tl.store(record + 2, position + first, mask=inside)
            tl.store(record + 3, tl.minimum(queries - first, QUERIES), mask=inside)
            record += RECORD
        listed += tl.sum(count)
    tl.store(blocks, listed)
