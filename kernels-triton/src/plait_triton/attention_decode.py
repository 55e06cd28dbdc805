"""``attention`` of rows with one query: a program reads a part of a row's keys of one KV head.

The parts of a row are put together by the one that is done last, in their order in the row, so the
result does not depend on which one that is.
"""

from __future__ import annotations

import triton
import triton.language as tl

from plait_triton.attention_plan import RECORD
from plait_triton.attention_tiles import block_of, place_of, scores_of
from plait_triton.language import bound, dot, let_next_start, wait_for_inputs


@triton.jit(do_not_specialize=["table_stride"], do_not_specialize_on_alignment=["table"])
def decode_kernel(
    q,
    kv,
    out,
    table,
    parts,
    arrived,
    sums,
    scales,
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
    HEADS: tl.constexpr,
    KEYS: tl.constexpr,
    COMBINED: tl.constexpr,
    COLUMNS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Attend with the ``GROUP`` query heads of a KV head, padded to ``HEADS`` of one product.

    ``COMBINED`` parts are put together at a time; ``COLUMNS`` is their width, padded.
    """
    kv_head = tl.program_id(0)
    part = tl.program_id(1)
    record = parts + (1 + part) * RECORD
    wait_for_inputs(PDL)
    let_next_start(PDL)
    if part >= tl.load(parts):
        return
    token = tl.load(record).to(tl.int64)
    row = tl.load(record + 1)
    begin = tl.load(record + 2)
    end = tl.load(record + 3)
    place_in_row = tl.load(record + 4)
    parts_of_row = tl.load(record + 5)

    TOKEN: tl.constexpr = KV_HEADS * HEAD_DIM
    head = tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, HEAD_BLOCK)[None, :]
    is_query = (head < GROUP) & (column < HEAD_DIM)
    of_head = (kv_head * GROUP + head) * HEAD_DIM + column
    queries = tl.load(q + token * q_stride + of_head, mask=is_query, other=0.0)
    row_table = table + row.to(tl.int64) * table_stride
    keys_of_head = kv + kv_head * HEAD_DIM + column

    largest = tl.full([HEADS], float("-inf"), tl.float32)
    weight = tl.zeros([HEADS], tl.float32)
    total = tl.zeros([HEADS, HEAD_BLOCK], tl.float32)
    key = begin + tl.arange(0, KEYS)
    block = block_of(row_table, key, key < end, BLOCK_SIZE)
    for _ in range(bound(begin), bound(end), KEYS):
        inside = key < end
        place = place_of(block, key, block_stride, BLOCK_SIZE, TOKEN)[:, None]
        key += KEYS
        block = block_of(row_table, key, key < end, BLOCK_SIZE)
        is_key = inside[:, None] & (column < HEAD_DIM)
        keys = tl.load(keys_of_head + place, mask=is_key, other=0.0)
        values = tl.load(keys_of_head + place + BLOCK_SIZE * TOKEN, mask=is_key, other=0.0)
        product = dot(queries, tl.trans(keys), tl.zeros([HEADS, KEYS], tl.float32))
        scores = scores_of(product, SCALE, SOFTCAP)
        scores = tl.where(inside[None, :], scores, float("-inf"))
        # Every tile has a key, so this is finite.
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        shrunk = tl.exp2(largest - new_largest)
        weights = tl.exp2(scores - new_largest[:, None])
        weight = weight * shrunk + tl.sum(weights, 1)
        total = dot(weights.to(values.dtype), values, total * shrunk[:, None])
        largest = new_largest

    to = out + token * (KV_HEADS * GROUP * HEAD_DIM)
    if parts_of_row == 1:
        tl.store(to + of_head, (total / weight[:, None]).to(out.dtype.element_ty), mask=is_query)
    else:
        of_part = part * KV_HEADS + kv_head
        tl.store(sums + of_part * (GROUP * HEAD_DIM) + head * HEAD_DIM + column, total, is_query)
        lane = tl.arange(0, HEADS)
        scale = scales + of_part * (2 * GROUP) + lane
        tl.store(scale, largest, mask=lane < GROUP)
        tl.store(scale + GROUP, weight, mask=lane < GROUP)
        # The stores of all threads come before the one thread's signal that they are there; what
        # it acquires, the other threads of the last program may read.
        tl.debug_barrier()
        counter = arrived + row * KV_HEADS + kv_head
        if tl.atomic_add(counter, 1, sem="acq_rel") == parts_of_row - 1:
            first = (part - place_in_row) * KV_HEADS + kv_head
            _combine(
                sums + first * (GROUP * HEAD_DIM),
                scales + first * (2 * GROUP),
                to + kv_head * (GROUP * HEAD_DIM),
                parts_of_row,
                GROUP,
                KV_HEADS,
                HEAD_DIM,
                COMBINED,
                COLUMNS,
            )
            tl.store(counter, 0)


@triton.jit
def _combine(
    sums,
    scales,
    to,
    parts,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    COMBINED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Put together what the parts of a row left, ``COMBINED`` at a time, all heads side by side."""
    column = tl.arange(0, COLUMNS)
    is_column = column < GROUP * HEAD_DIM
    head = tl.minimum(column // HEAD_DIM, GROUP - 1)[None, :]
    largest = tl.full([COLUMNS], float("-inf"), tl.float32)
    weight = tl.zeros([COLUMNS], tl.float32)
    total = tl.zeros([COLUMNS], tl.float32)
    for start in tl.range(0, bound(parts), COMBINED, num_stages=4):
        part = start + tl.arange(0, COMBINED)[:, None]
        inside = part < parts
        scale = scales + part * (KV_HEADS * 2 * GROUP) + head
        largest_of_part = tl.load(scale, mask=inside, other=float("-inf"))
        weight_of_part = tl.load(scale + GROUP, mask=inside, other=0.0)
        sum_of_part = sums + part * (KV_HEADS * GROUP * HEAD_DIM) + column[None, :]
        values = tl.load(sum_of_part, mask=inside & is_column[None, :], other=0.0)
        new_largest = tl.maximum(largest, tl.max(largest_of_part, 0))
        shrunk = tl.exp2(largest - new_largest)
        factor = tl.exp2(largest_of_part - new_largest[None, :])
        weight = weight * shrunk + tl.sum(weight_of_part * factor, 0)
        total = total * shrunk + tl.sum(values * factor, 0)
        largest = new_largest
    tl.store(to + column, (total / weight).to(to.dtype.element_ty), mask=is_column)
