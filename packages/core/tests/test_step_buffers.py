"""Padded steps: their sizes, and the inputs that a device reads from their buffers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait.plan import StepPlan
from plait.rows import Rows
from plait.step_buffers import StepBuffers
from plait.step_sizes import StepSize, common_site_sets, decode_sizes, mixed_sizes
from plait.token_layout import TokenLayout
from plait_kernels.config import BUCKETS
from plait_kernels.lora_types import LoraBatch, LoraTable
from plait_kernels.sites import LoraSite
from plait_lora.arena import LoraArena
from plait_lora.batch import build_batch
from plait_lora.commands import StoreCommands

BLOCK_SIZE = 4


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 8, 40, 64, 100, 128, 129, 256, 1000])
def test_decode_sizes_end_at_the_most_rows_and_waste_little(most: int) -> None:
    sizes = decode_sizes(most)
    assert all(size.is_decode and size.tokens == size.rows for size in sizes)
    counts = [size.rows for size in sizes]
    assert counts == sorted(set(counts))
    assert counts[-1] == most
    for rows in range(1, most + 1):
        padded = min(count for count in counts if count >= rows)
        assert padded - rows < max(8, rows // 2)


@pytest.mark.parametrize("max_rows", [1, 30, 64, 256])
@pytest.mark.parametrize("max_tokens", [1, 30, 64, 65, 256, 300, 512, 8192])
def test_mixed_sizes_hold_every_small_step(max_rows: int, max_tokens: int) -> None:
    sizes = mixed_sizes(max_rows, max_tokens)
    assert not any(size.is_decode for size in sizes)
    counts = [size.tokens for size in sizes]
    assert counts == sorted(set(counts))
    assert counts[-1] == min(max_tokens, 512)
    for size in sizes:
        assert size.rows == min(size.tokens, max_rows)
    for tokens in range(1, counts[-1] + 1):
        assert min(count for count in counts if count >= tokens) - tokens < 64


def test_site_sets_that_most_steps_have() -> None:
    modules = {"q_proj": "qkv", "o_proj": "o", "up_proj": "gate_up", "down_proj": "down"}
    modules |= {"embed_tokens": "embed", "lm_head": "head"}
    sites = [
        LoraSite(i, f"layers.0.x.{name}", group, 8, 8)
        for i, (name, group) in enumerate(modules.items())
    ]
    none, qkv = frozenset[str](), frozenset({"qkv"})
    every = frozenset({"qkv", "o", "gate_up", "down"})
    assert common_site_sets(sites, None) == (none, qkv, every)
    assert common_site_sets(sites, ["q_proj", "v_proj"]) == (none, qkv)
    assert common_site_sets(sites, ["q_proj", "o_proj"]) == (none, qkv, {"qkv", "o"})
    assert common_site_sets(sites, ["down_proj"]) == (none, {"down"})
    assert common_site_sets(sites, ["lm_head"]) == (none,)


@pytest.fixture
def rows() -> Rows:
    rows = Rows(max_num_seqs=6, max_model_len=24, block_size=BLOCK_SIZE, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    rows.tokens.random_(0, 100, generator=generator)
    rows.block_table.copy_(torch.randperm(36, generator=generator).view(6, 6))
    return rows


@pytest.fixture
def table() -> LoraTable:
    site = LoraSite(0, "layers.0.self_attn.q_proj", "qkv", 8, 8)
    return LoraArena(1, 64, 5, (site,), torch.float32).table


def layout_of(
    row: list[int], start: list[int], count: list[int], sample: list[bool] | None = None
) -> TokenLayout:
    none = np.zeros(0, np.int32)
    rows, starts, counts = (np.array(values, np.int32) for values in (row, start, count))
    samples = np.array([True] * len(row) if sample is None else sample)
    return TokenLayout.of(
        StepPlan(StoreCommands(), (), rows, starts, counts, samples, none, none, none)
    )


def decode_layout(row: list[int], start: list[int]) -> TokenLayout:
    return layout_of(row, start, [1] * len(row))


def kv_slot(rows: Rows, row: int, position: int) -> int:
    return int(rows.block_table[row, position // BLOCK_SIZE]) * BLOCK_SIZE + position % BLOCK_SIZE


def test_a_device_reads_what_the_rows_hold(rows: Rows) -> None:
    buffers = StepBuffers(StepSize(8, 8, is_decode=True), rows, None)
    row, start = [4, 1, 5], [0, 11, 23]
    buffers.fill(decode_layout(row, start))
    kv = torch.zeros(0)
    inputs = buffers.step_inputs(kv, frozenset())
    assert inputs.kv is kv
    assert inputs.lora is None
    assert inputs.bucket == BUCKETS.index("decode")
    assert inputs.token_ids[:3].tolist() == rows.tokens[row, start].tolist()
    assert inputs.positions[:3].tolist() == start
    expected = [kv_slot(rows, *place) for place in zip(row, start, strict=True)]
    assert inputs.slot_mapping.tolist() == expected + [-1] * 5
    attention = inputs.attention
    assert attention.query_start.tolist() == [0, 1, 2, 3, 3, 3, 3, 3, 3]
    assert attention.kv_length.tolist() == [1, 12, 24, 0, 0, 0, 0, 0]
    assert attention.block_table[:3].tolist() == rows.block_table[row].tolist()
    assert attention.max_query == 1
    hidden = torch.randn(8, 3)
    assert buffers.with_logits(hidden) is hidden


def test_prompts_beside_decoding_rows(rows: Rows) -> None:
    buffers = StepBuffers(StepSize(16, 5, is_decode=False), rows, None)
    # A prompt, one that goes on and does not end, a decoding row.
    row, start, count = [3, 0, 5], [0, 6, 17], [7, 4, 1]
    buffers.fill(layout_of(row, start, count, [True, False, True]))
    inputs = buffers.step_inputs(torch.zeros(0), frozenset())
    assert inputs.bucket == BUCKETS.index("prefill")
    tokens = [(3, i) for i in range(7)] + [(0, i) for i in range(6, 10)] + [(5, 17)]
    assert inputs.positions.tolist() == [position for _, position in tokens] + [0] * 4
    assert inputs.token_ids[:12].tolist() == [int(rows.tokens[place]) for place in tokens]
    assert inputs.slot_mapping.tolist() == [kv_slot(rows, *place) for place in tokens] + [-1] * 4
    attention = inputs.attention
    assert attention.query_start.tolist() == [0, 7, 11, 12, 12, 12]
    assert attention.kv_length.tolist() == [7, 10, 18, 0, 0]
    assert attention.block_table[:3].tolist() == rows.block_table[row].tolist()
    assert attention.max_query == 16
    hidden = torch.randn(16, 3)
    assert buffers.with_logits(hidden).shape == (5, 3)
    assert buffers.with_logits(hidden)[:2].tolist() == hidden[[6, 11]].tolist()


def test_a_smaller_step_leaves_nothing_of_a_larger_one(rows: Rows) -> None:
    buffers = StepBuffers(StepSize(4, 4, is_decode=True), rows, None)
    buffers.fill(decode_layout([0, 1, 2, 3], [5, 6, 7, 8]))
    buffers.fill(decode_layout([2], [9]))
    inputs = buffers.step_inputs(torch.zeros(0), frozenset())
    assert inputs.attention.kv_length.tolist() == [10, 0, 0, 0]
    assert inputs.slot_mapping[1:].tolist() == [-1] * 3


@pytest.mark.parametrize("is_decode", [True, False])
def test_a_step_of_no_tokens_writes_nothing(
    rows: Rows, table: LoraTable, *, is_decode: bool
) -> None:
    buffers = StepBuffers(StepSize(5, 5, is_decode=is_decode), rows, table)
    groups = frozenset({"qkv", "head"})
    rows.slot[:] = 2
    for _ in range(2):
        inputs = buffers.step_inputs(torch.zeros(0), groups)
        assert inputs.slot_mapping.tolist() == [-1] * 5
        assert inputs.attention.kv_length.tolist() == [0] * 5
        assert inputs.attention.query_start.tolist() == [0] * 6
        for batch in (inputs.lora, buffers.lora_of_rows(groups)):
            assert batch is not None
            assert batch.num_segments.tolist() == [0]
        buffers.fill(decode_layout([3, 1], [7, 2]), groups)
        buffers.clear()


def same_batch(found: LoraBatch | None, expected: LoraBatch) -> None:
    assert found is not None
    assert found.table is expected.table
    for name in ("token_slot", "token_weight", "order", "segment_slot", "segment_start"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert mine.dtype == theirs.dtype
        # Those of the segments have room for more.
        assert mine[: len(theirs)].tolist() == theirs.tolist()
        assert mine.data_ptr() % 16 == 0
    assert found.token_slot.shape == expected.token_slot.shape
    assert found.num_segments.tolist() == expected.num_segments.tolist()


def test_the_batch_of_adapters_is_that_of_a_step_of_its_own(rows: Rows, table: LoraTable) -> None:
    buffers = StepBuffers(StepSize(8, 8, is_decode=True), rows, table)
    rows.slot[:5] = [3, -1, 0, 3, 2]
    layout, groups = decode_layout(list(range(5)), list(range(5))), frozenset({"qkv", "head"})
    buffers.fill(layout, groups)
    expected = build_batch(table, np.array([3, -1, 0, 3, 2, -1, -1, -1], np.int32))
    same_batch(buffers.step_inputs(torch.zeros(0), groups).lora, expected)
    same_batch(buffers.lora_of_rows(groups), expected)
    assert buffers.lora_of_rows(frozenset({"qkv"})) is None
    # A step of the base model alone copies less, and names no adapter.
    buffers.fill(layout)
    assert buffers.step_inputs(torch.zeros(0), frozenset()).lora is None


def test_the_tokens_and_the_rows_of_a_mixed_step_have_batches_of_their_own(
    rows: Rows, table: LoraTable
) -> None:
    buffers = StepBuffers(StepSize(8, 6, is_decode=False), rows, table)
    rows.slot[:4] = [4, -1, 0, 4]
    layout = layout_of([0, 1, 2, 3], [0, 5, 0, 1], [2, 1, 3, 1], [True, True, False, True])
    groups = frozenset({"qkv", "head"})
    buffers.fill(layout, groups)
    of_tokens = build_batch(table, np.array([4, 4, -1, 0, 0, 0, 4, -1], np.int32))
    of_rows = build_batch(table, np.array([4, -1, 4, -1, -1, -1], np.int32))
    same_batch(buffers.step_inputs(torch.zeros(0), groups).lora, of_tokens)
    same_batch(buffers.lora_of_rows(groups), of_rows)
