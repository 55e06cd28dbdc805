"""The ``torch`` backend's ``lora`` against the reference on random inputs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait_kernels.config import OpConfig
from plait_kernels.ops.lora import TOLERANCE, inputs, reference
from plait_kernels.torch_backend.lora import make
from plait_kernels.torch_backend.lora_bundles import bundle
from plait_kernels.torch_backend.lora_slots import SlotTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait_kernels.lora_types import LoraBatch
    from plait_kernels.ops.lora_inputs import LoraInputs

CONFIG = OpConfig.of("lora", dtype="float32", bucket="decode", max_tokens=64, group="qkv")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def apply(implementation: Any, case: LoraInputs, batch: LoraBatch | None = None) -> torch.Tensor:
    batch = batch or case.batch
    y = case.y.clone()
    h = implementation.shrink(case.x, case.sites, batch)
    implementation.expand(h, case.sites, batch, y)
    return y


def check(got: torch.Tensor, case: LoraInputs, batch: LoraBatch | None = None) -> None:
    rtol, atol = TOLERANCE[str(case.y.dtype).removeprefix("torch.")]
    expected = apply(reference(CONFIG), case, batch)
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    served = (batch or case.batch).token_slot >= 0
    assert torch.equal(got[~served], case.y[~served])
    owned = torch.zeros(case.y.shape[1], dtype=torch.bool)
    for site in case.sites:
        owned[site.out_offset : site.out_offset + site.out_features] = True
    assert torch.equal(got[:, ~owned], case.y[:, ~owned])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    group=st.sampled_from(("qkv", "embed", "head")),
    tokens=st.sampled_from((0, 1, 2, 7, 24)),
    slots=st.sampled_from((1, 3, 9)),
    tile_rows=st.sampled_from((1, 8, 16)),
    max_adapters=st.sampled_from((1, 3)),
    dense=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    arena_dtype=st.sampled_from(DTYPES),
)
def test_equals_reference(**arguments: Any) -> None:
    case = inputs(**arguments)
    check(apply(make(CONFIG), case), case)


def alike(tile_rows: int, **arguments: Any) -> LoraInputs:
    """Make slots of one shape, one after another in the arena: the case for bundles."""
    options: dict[str, Any] = {
        "ranks": (16,),
        "max_adapters": 1,
        "dense": False,
        "slots": 8,
        "tokens": 8,
    }
    case = inputs(11, tile_rows=tile_rows, **{**options, **arguments})
    table = case.batch.table
    # every (slot, site) lists the tiles of its place, so that no site is untargeted
    count = -(-16 // tile_rows)
    stride = [
        tile_rows * (site.in_features + site.out_features) * table.dtype.itemsize
        for site in case.sites
    ]
    stride = [size + -size % 64 for size in stride]
    span = count * sum(stride)
    slots = table.tile_count.shape[0]
    places = list(torch.randperm(slots, generator=torch.Generator().manual_seed(3)))
    arena = torch.full((slots * span,), 0xFF, dtype=torch.uint8)
    values = torch.randn(arena.numel() // table.dtype.itemsize) / 4
    arena.view(table.dtype).copy_(values)
    offsets: list[int] = []
    start = []
    for place in places:
        offset = int(place) * span
        for size in stride:
            start.append(len(offsets))
            offsets += [offset + i * size for i in range(count)]
            offset += count * size
    total = len(offsets)
    table.arena, table.tile_offset = arena, torch.tensor(offsets)
    table.tile_rank = torch.full((total,), min(16, tile_rows), dtype=torch.int32)
    table.tile_scale = torch.full((total,), 0.75)
    table.tile_start[:, 2:] = torch.tensor(start, dtype=torch.int32).view(slots, -1)
    table.tile_count[:, 2:] = count
    table.version += 1
    return case


def regroup(case: LoraInputs, token_slot: list[int]) -> LoraBatch:
    """Make the batch anew for other slots."""
    tokens = len(token_slot)
    slots = sorted({slot for slot in token_slot if slot >= 0})
    members = [[t for t in range(tokens) if token_slot[t] == slot] for slot in slots]
    start = [0]
    for part in members:
        start.append(start[-1] + len(part))
    order = [token for part in members for token in part]

    def int32(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32)

    return dataclasses.replace(
        case.batch,
        token_slot=int32(token_slot),
        order=int32(order),
        segment_slot=int32(slots),
        segment_start=int32(start),
        num_segments=int32([len(slots)]),
    )


@pytest.mark.parametrize("tile_rows", [1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "token_slot",
    [
        range(8),
        [7, 6, 5, 4, 3, 2, 1, 0],
        [0, 0, 1, 1, 2, 2, 3, 3],
        [0, 3, 3, 3, 5, 5, -1, 6],
        [2, -1, 2, -1, 5, -1, 5, 5],
        [4] * 8,
    ],
)
def test_adapters_of_one_shape(
    tile_rows: int, dtype: torch.dtype, token_slot: Sequence[int]
) -> None:
    case = alike(tile_rows, dtype=dtype, arena_dtype=torch.float32)
    batch = regroup(case, list(token_slot))
    check(apply(make(CONFIG), case, batch), case, batch)


def test_adapters_of_one_shape_share_matmuls() -> None:
    table = alike(8).batch.table
    tables = SlotTable(table)
    by_place = sorted(range(8), key=lambda number: tables.slot(number).base)

    def places(chosen: Sequence[int]) -> list[list[int | None]]:
        segments = [(tables.slot(by_place[i]), np.array([i])) for i in chosen]
        found = bundle(segments, None, torch.device("cpu"))
        numbers = [[None if slot is None else slot.number for slot in part.slots] for part in found]
        return [[None if n is None else by_place.index(n) for n in part] for part in numbers]

    assert places(range(8)) == [[*range(8)]]
    assert places([6, 0, 3]) == [[0, 3, 6]]
    assert places([0, 1, 3]) == [[0, 1, None, 3]]
    assert places([0, 1, 7]) == [[0, 1], [7]]


@pytest.mark.parametrize("tile_rows", [1, 8])
def test_scales_may_differ_between_adapters_of_one_shape(tile_rows: int) -> None:
    case = alike(tile_rows)
    table = case.batch.table
    per_slot = table.tile_scale.numel() // 8
    table.tile_scale = torch.linspace(-2, 2, 8).repeat_interleave(per_slot)
    batch = regroup(case, list(range(8)))
    check(apply(make(CONFIG), case, batch), case, batch)


def test_two_mixes_of_one_adapter() -> None:
    case = alike(8)
    table = case.batch.table
    table.tile_start[5] = table.tile_start[2]
    batch = regroup(case, [2, 5, 5, 2, 1, 0, 3, 5])
    check(apply(make(CONFIG), case, batch), case, batch)


@pytest.mark.parametrize("tile_rows", [1, 8])
def test_follows_changes_of_the_table(tile_rows: int) -> None:
    case = alike(tile_rows)
    table = case.batch.table
    implementation = make(CONFIG)
    batch = regroup(case, [0, 1, 2, 3, 3, -1, 6, 7])
    before = apply(implementation, case, batch)
    table.tile_scale[: table.tile_scale.numel() // 2] *= -3
    table.tile_start[7] = table.tile_start[1]
    table.arena.view(torch.float32)[: table.arena.numel() // 8].neg_()
    table.version += 1
    after = apply(implementation, case, batch)
    assert not torch.equal(before, after)
    check(after, case, batch)
    table.tile_count[3] = 0
    table.version += 1
    got = apply(implementation, case, batch)
    check(got, case, batch)
    assert torch.equal(got[3:5], case.y[3:5])


def test_follows_another_table() -> None:
    implementation = make(CONFIG)
    for seed in range(3):
        case = inputs(seed, tokens=6)
        check(apply(implementation, case), case)


def test_same_bits_again() -> None:
    case = alike(1)
    batch = regroup(case, [0, 3, 3, 3, 5, 5, -1, 6])
    implementation = make(CONFIG)
    first = apply(implementation, case, batch)
    assert torch.equal(first, apply(implementation, case, batch))
    assert torch.equal(first, apply(make(CONFIG), case, batch))
