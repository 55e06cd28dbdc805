"""The division of a step's ``attention`` into parts and blocks, and how parts become one."""

from __future__ import annotations

import random

import pytest
import torch

from plait_kernels.attention_types import AttentionBatch
from plait_kernels.config import OpConfig, Scalar
from plait_kernels.ops.attention import inputs, reference
from plait_triton.attention import Attention
from plait_triton.attention_tiles import DecodeTiles, PrefillTiles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHORT = DecodeTiles(keys=16, least=1, programs=64)
SMALL = PrefillTiles(rows=16, keys=16, warps=4, stages=2)


def config(**variant: Scalar) -> OpConfig:
    return OpConfig.of(
        "attention",
        dtype="float32",
        bucket="prefill",
        max_tokens=512,
        heads=3,
        kv_heads=1,
        head_dim=16,
        block_size=4,
        scale=None,
        **variant,
    )


def compare(rows: tuple[tuple[int, int], ...], tiles: DecodeTiles, **variant: Scalar) -> None:
    q, kv, batch = inputs(
        3, rows=rows, heads=3, kv_heads=1, head_dim=16, block_size=4, device=DEVICE
    )
    attention, oracle = Attention(config(**variant), tiles, SMALL), reference(config(**variant))
    plan = attention.plan(batch)
    expected = oracle.run(q, kv, oracle.plan(batch))
    # A second layer of the same step: the parts that arrived are counted from zero again.
    for _ in range(2):
        torch.testing.assert_close(attention.run(q, kv, plan), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 200])
def test_rows_in_many_parts(window: int | None) -> None:
    compare(((1, 300), (0, 9), (1, 5), (1, 163), (20, 150)), SHORT, window=window)


def test_all_parts_of_one_row() -> None:
    compare(((1, 700),), DecodeTiles(keys=16, least=1, programs=40))


def test_more_rows_than_a_vector_of_the_plan() -> None:
    lengths = random.Random(1)
    compare(tuple((lengths.choice((0, 1, 1, 3)), lengths.randint(3, 9)) for _ in range(140)), SHORT)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("window", [None, 37])
def test_the_lists_hold_all_work_once(seed: int, window: int | None) -> None:
    numbers = random.Random(seed)
    queries = [numbers.choice((0, 1, 1, 2, 40)) for _ in range(numbers.randint(1, 200))]
    lengths = [count + numbers.choice((0, 3, 500)) for count in queries]
    starts = torch.tensor([0, *queries]).cumsum(0)
    batch = AttentionBatch(
        query_start=starts.to(DEVICE, torch.int32),
        kv_length=torch.tensor(lengths, dtype=torch.int32, device=DEVICE),
        block_table=torch.zeros((len(queries), 136), dtype=torch.int32, device=DEVICE),
        max_query=40,
        max_kv=540,
    )
    plan = Attention(config(window=window), SHORT, SMALL).plan(batch)
    keys: set[tuple[int, int]] = set()
    tokens: set[int] = set()
    for token, row, begin, end, part, parts, *_ in _records(plan.parts):
        assert (queries[row], token) == (1, int(starts[row]))
        assert 0 <= part < parts
        assert begin < end
        keys |= {(row, key) for key in range(begin, end)}
    assert len(keys) == sum(end - begin for _, _, begin, end, *_ in _records(plan.parts))
    assert keys == {
        (row, key)
        for row, (count, length) in enumerate(zip(queries, lengths, strict=True))
        if count == 1
        for key in range(max(0, length - (window or length)), length)
    }
    for token, row, position, count, *_ in _records(plan.blocks):
        assert position - token == lengths[row] - queries[row] - int(starts[row])
        assert tokens.isdisjoint(range(token, token + count))
        tokens |= set(range(token, token + count))
    assert len(tokens) == sum(count for count in queries if count > 1)
    assert not plan.arrived.any()


def _records(listed: torch.Tensor) -> list[list[int]]:
    records: list[list[int]] = listed[1 : 1 + int(listed[0, 0])].tolist()
    return records
