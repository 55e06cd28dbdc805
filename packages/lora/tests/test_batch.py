"""build_batch groups tokens by slot."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from plait_lora.arena import LoraArena
from plait_lora.batch import TokenGroups, build_batch

NUM_SLOTS = 6


@given(
    slots=st.lists(st.integers(-1, NUM_SLOTS - 1), max_size=40),
    weighted=st.booleans(),
)
def test_work_list(slots: list[int], weighted: bool) -> None:
    table = LoraArena(1, 64, NUM_SLOTS, (), torch.float32).table
    token_slot = np.array(slots, np.int32)
    weight = np.linspace(-1, 2, len(slots)).astype(np.float32) if weighted else None
    batch = build_batch(table, token_slot, weight)
    count = int(batch.num_segments)
    start = batch.segment_start.tolist()
    found = {
        slot: batch.order[start[i] : start[i + 1]].tolist()
        for i, slot in enumerate(batch.segment_slot[:count].tolist())
    }
    expected: dict[int, list[int]] = {}
    for token, slot in enumerate(slots):
        if slot >= 0:
            expected.setdefault(slot, []).append(token)
    assert found == expected
    assert len(found) == count
    assert batch.table is table
    assert batch.token_slot.tolist() == slots
    assert batch.token_weight.tolist() == ([1.0] * len(slots) if weight is None else list(weight))
    for values in (batch.token_slot, batch.order, batch.segment_slot, batch.segment_start):
        assert values.dtype == torch.int32
    assert batch.token_weight.dtype == torch.float32
    assert batch.order.shape == (len(slots),)
    assert batch.segment_slot.numel() == count
    assert batch.segment_start.numel() == count + 1


def test_shares_no_memory_with_its_arguments() -> None:
    table = LoraArena(1, 64, NUM_SLOTS, (), torch.float32).table
    slots, weight = np.array([2, -1, 2], np.int32), np.ones(3, np.float32)
    batch = build_batch(table, slots, weight)
    slots[:], weight[:] = 5, 7
    assert batch.token_slot.tolist() == [2, -1, 2]
    assert batch.token_weight.tolist() == [1, 1, 1]


@given(
    slots=st.lists(st.integers(-1, NUM_SLOTS - 1), max_size=40),
    tiles=st.lists(st.integers(0, 3), min_size=NUM_SLOTS, max_size=NUM_SLOTS),
)
def test_slots_with_more_tiles_come_first(slots: list[int], tiles: list[int]) -> None:
    token_slot, slot_tiles = np.array(slots, np.int32), np.array(tiles, np.int32)
    groups = TokenGroups.of(token_slot, capacity=NUM_SLOTS, slot_tiles=slot_tiles)
    count = int(groups.num_segments[0])
    found = groups.segment_slot[:count].tolist()
    assert found == sorted({slot for slot in slots if slot >= 0}, key=lambda s: (-tiles[s], s))
    start = groups.segment_start[: count + 1].tolist()
    for i, slot in enumerate(found):
        members = groups.order[start[i] : start[i + 1]].tolist()
        assert members == [token for token, other in enumerate(slots) if other == slot]
    assert start[-1] == sum(slot >= 0 for slot in slots)
