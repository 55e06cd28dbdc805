"""Decode steps: their sizes, and the inputs that a device reads from their buffers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait.decode_buffers import DecodeBuffers
from plait.decode_steps import step_sizes
from plait.rows import Rows
from plait_kernels.lora_types import LoraTable
from plait_kernels.sites import LoraSite
from plait_lora.arena import LoraArena
from plait_lora.batch import TokenGroups, build_batch

BLOCK_SIZE = 4


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 8, 40, 64, 100, 128, 129, 256, 1000])
def test_sizes_end_at_the_most_rows_and_waste_little(most: int) -> None:
    sizes = step_sizes(most)
    assert list(sizes) == sorted(set(sizes))
    assert sizes[-1] == most
    for rows in range(1, most + 1):
        padded = min(size for size in sizes if size >= rows)
        assert padded - rows < max(8, rows // 2)


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


def test_a_device_reads_what_the_rows_hold(rows: Rows) -> None:
    buffers = DecodeBuffers(8, rows, None)
    row, start = np.array([4, 1, 5], np.int32), np.array([0, 11, 23], np.int32)
    buffers.fill(row, start, None)
    kv = torch.zeros(0)
    inputs = buffers.step_inputs(kv, frozenset())
    assert inputs.kv is kv
    assert inputs.lora is None
    assert inputs.token_ids[:3].tolist() == rows.tokens[row.tolist(), start.tolist()].tolist()
    assert inputs.positions[:3].tolist() == start.tolist()
    expected = [
        int(rows.block_table[r, s // BLOCK_SIZE]) * BLOCK_SIZE + s % BLOCK_SIZE
        for r, s in zip(row.tolist(), start.tolist(), strict=True)
    ]
    assert inputs.slot_mapping.tolist() == expected + [-1] * 5
    attention = inputs.attention
    assert attention.query_start.tolist() == [0, 1, 2, 3, 3, 3, 3, 3, 3]
    assert attention.kv_length.tolist() == [1, 12, 24, 0, 0, 0, 0, 0]
    assert attention.block_table[:3].tolist() == rows.block_table[row.tolist()].tolist()


def test_a_smaller_step_leaves_nothing_of_a_larger_one(rows: Rows) -> None:
    buffers = DecodeBuffers(4, rows, None)
    buffers.fill(np.array([0, 1, 2, 3], np.int32), np.array([5, 6, 7, 8], np.int32), None)
    buffers.fill(np.array([2], np.int32), np.array([9], np.int32), None)
    inputs = buffers.step_inputs(torch.zeros(0), frozenset())
    assert inputs.attention.kv_length.tolist() == [10, 0, 0, 0]
    assert inputs.slot_mapping[1:].tolist() == [-1] * 3


def test_the_batch_of_adapters_is_that_of_a_step_of_its_own(rows: Rows, table: LoraTable) -> None:
    buffers = DecodeBuffers(8, rows, table)
    slots = np.array([3, -1, 0, 3, 2, -1, -1, -1], np.int32)
    row = np.arange(5, dtype=np.int32)
    buffers.fill(row, row, TokenGroups.of(slots, capacity=buffers.capacity))
    found = buffers.step_inputs(torch.zeros(0), frozenset({"qkv"})).lora
    assert found is not None
    expected = build_batch(table, slots)
    assert found.table is table
    for name in ("token_slot", "token_weight", "order", "segment_slot", "segment_start"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert mine.dtype == theirs.dtype
        assert mine.tolist() == theirs.tolist()
        assert mine.data_ptr() % 16 == 0
    assert found.num_segments.tolist() == expected.num_segments.tolist() == [3]
    # A step of the base model alone copies less, and names no adapter.
    buffers.fill(row, row, None)
    assert buffers.step_inputs(torch.zeros(0), frozenset()).lora is None
