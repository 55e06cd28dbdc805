"""``attention`` of rows with several queries: FlashAttention-2 (Dao, 2023) over paged keys.

A program takes a block of a row's queries and the query heads that share one KV head, all of them
rows of one product, so that keys and values are read once for the whole group.
"""

from __future__ import annotations

import triton
import triton.language as tl

from plait_triton.attention_plan import RECORD
from plait_triton.attention_tiles import block_of, place_of, scores_of
from plait_triton.language import bound, dot, let_next_start, wait_for_inputs


@triton.jit
def _attend(
    queries,
    largest,
    weight,
    total,
    position,
    begin,
    end,
    keys_of_head,
    row_table,
    block_stride,
    MASKED: tl.constexpr,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Go on with the keys from ``begin`` to ``end``; unless ``MASKED`` all see them all."""
    TOKEN: tl.constexpr = KV_HEADS * HEAD_DIM
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    next_key = begin + tl.arange(0, KEYS)
    block = block_of(row_table, next_key, next_key < end, BLOCK_SIZE)
    for _ in range(bound(begin), bound(end), KEYS):
        key = next_key
        place = place_of(block, key, block_stride, BLOCK_SIZE, TOKEN)[:, None]
        is_key = column < HEAD_DIM
        if MASKED:
            is_key = is_key & (key < end)[:, None]
        next_key += KEYS
        block = block_of(row_table, next_key, next_key < end, BLOCK_SIZE)
        keys = tl.load(keys_of_head + place, mask=is_key, other=0.0)
        product = dot(queries, tl.trans(keys), tl.zeros([queries.shape[0], KEYS], tl.float32))
        scores = scores_of(product, SCALE, SOFTCAP)
        if MASKED:
            seen = key[None, :] <= position[:, None]
            if WINDOW:
                seen = seen & (key[None, :] > position[:, None] - WINDOW)
            scores = tl.where(seen, scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        subtracted = new_largest
        if WINDOW:
            # A query may see no key of its block's first tiles.
            subtracted = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        shrunk = tl.exp2(largest - subtracted)
        weights = tl.exp2(scores - subtracted[:, None])
        weight = weight * shrunk + tl.sum(weights, 1)
        values = tl.load(keys_of_head + place + BLOCK_SIZE * TOKEN, mask=is_key, other=0.0)
        total = dot(weights.to(values.dtype), values, total * shrunk[:, None])
        largest = new_largest
    return largest, weight, total


@triton.jit(do_not_specialize=["table_stride"], do_not_specialize_on_alignment=["table"])
def prefill_kernel(
    q,
    kv,
    out,
    table,
    blocks,
    q_stride,
    block_stride,
    table_stride,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    WINDOW: tl.constexpr,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Attend with ``ROWS // GROUP`` queries of the ``GROUP`` heads of a KV head."""
    kv_head = tl.program_id(0)
    record = blocks + (1 + tl.program_id(1)) * RECORD
    wait_for_inputs(PDL)
    let_next_start(PDL)
    if tl.program_id(1) >= tl.load(blocks):
        return
    token = tl.load(record).to(tl.int64)
    row = tl.load(record + 1)
    first = tl.load(record + 2)
    count = tl.load(record + 3)

    lane = tl.arange(0, ROWS)
    # Rows without a query compute as the last one does, and are not stored.
    query = tl.minimum(lane // GROUP, count - 1)
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    is_query = (lane < count * GROUP)[:, None] & (column < HEAD_DIM)
    of_head = ((kv_head * GROUP + lane % GROUP) * HEAD_DIM)[:, None] + column
    at = (token + query)[:, None]
    queries = tl.load(q + at * q_stride + of_head, mask=is_query, other=0.0)
    row_table = table + row.to(tl.int64) * table_stride
    keys_of_head = kv + kv_head * HEAD_DIM + column
    position = first + query

    largest = tl.full([ROWS], float("-inf"), tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([ROWS, HEAD_BLOCK], tl.float32)
    begin = first * 0
    if WINDOW:
        begin = tl.maximum(first - WINDOW + 1, 0)
    else:
        full = (first + 1) // KEYS * KEYS
        largest, weight, total = _attend(
            queries,
            largest,
            weight,
            total,
            position,
            begin,
            full,
            keys_of_head,
            row_table,
            block_stride,
            False,
            SCALE,
            SOFTCAP,
            WINDOW,
            KV_HEADS,
            HEAD_DIM,
            HEAD_BLOCK,
            BLOCK_SIZE,
            KEYS,
        )
        begin = full
    largest, weight, total = _attend(
        queries,
        largest,
        weight,
        total,
        position,
        begin,
        first + count,
        keys_of_head,
        row_table,
        block_stride,
        True,
        SCALE,
        SOFTCAP,
        WINDOW,
        KV_HEADS,
        HEAD_DIM,
        HEAD_BLOCK,
        BLOCK_SIZE,
        KEYS,
    )
    to = out + at * (KV_HEADS * GROUP * HEAD_DIM) + of_head
    tl.store(to, (total / weight[:, None]).to(out.dtype.element_ty), mask=is_query)
