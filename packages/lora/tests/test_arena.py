"""LoraArena: what was loaded is what kernels compute with."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from plait_kernels.config import OpConfig
from plait_kernels.lora_types import DENSE_ADD, DENSE_ROW, DENSE_SCALE
from plait_kernels.ops import load_op
from plait_kernels.sites import LoraSite
from plait_lora.arena import LoraArena
from plait_lora.layout import AdapterLayout, ModuleShape
from plait_lora.weights import DenseWeights, ModuleWeights

SITES = (
    LoraSite(0, "layers.0.self_attn.q_proj", "qkv", 40, 24, 0),
    LoraSite(1, "layers.0.self_attn.k_proj", "qkv", 40, 16, 24),
    LoraSite(2, "layers.0.self_attn.v_proj", "qkv", 40, 16, 40),
)
CHUNK = 4096


class Device:
    """An arena with its first free chunk, and dense copies of what was loaded."""

    def __init__(self, dtype: torch.dtype, tile_rows: int, num_slots: int = 4) -> None:
        self.arena = LoraArena(
            200, CHUNK, num_slots, SITES, dtype, tile_rows=tile_rows, list_capacity=4
        )
        self.arena.table.arena.fill_(0xFF)
        self.deltas: dict[str, dict[int, torch.Tensor]] = {}
        self.next_chunk = 0

    def load(
        self, key: str, ranks: dict[int, int], dense: tuple[DenseWeights, ...] = ()
    ) -> AdapterLayout:
        table = self.arena.table
        modules = {
            index: ModuleWeights(
                torch.randn(rank, SITES[index].in_features),
                torch.randn(SITES[index].out_features, rank) / rank,
                random.Random(key).choice((0.5, -2.0)),
            )
            for index, rank in ranks.items()
        }
        shapes = [ModuleShape(i, m.rank, m.a.shape[1], m.b.shape[0]) for i, m in modules.items()]
        sizes = [
            entry.row.numel() * (table.dtype.itemsize if entry.kind == DENSE_ROW else 4)
            for entry in dense
        ]
        layout = AdapterLayout.plan(
            shapes,
            sizes,
            chunk_bytes=CHUNK,
            itemsize=table.dtype.itemsize,
            tile_rows=table.tile_rows,
        )
        chunks = []
        for run in layout.runs:
            chunks.append(self.next_chunk)
            # a chunk left out between two runs
            self.next_chunk += run + 1
        self.arena.load(key, layout, chunks, modules, dense)
        self.deltas[key] = {
            i: m.scale * m.b.to(table.dtype).float() @ m.a.to(table.dtype).float()
            for i, m in modules.items()
        }
        return layout

    def run(self, slots: list[int], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        reference = load_op("lora").reference(
            OpConfig.of("lora", dtype="float32", bucket="decode", max_tokens=8)
        )
        batch = self.arena.batch(np.array(slots, np.int32))
        y = y.clone()
        reference.expand(reference.shrink(x, SITES, batch), SITES, batch, y)  # type: ignore[attr-defined]
        return y

    def delta(self, mix: tuple[tuple[str, float], ...], x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(56)
        for key, weight in mix:
            for index, delta in self.deltas[key].items():
                site = SITES[index]
                columns = slice(site.out_offset, site.out_offset + site.out_features)
                total[columns] += weight * (delta @ x)
        return total


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("tile_rows", [1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixes_of_ragged_adapters(dtype: torch.dtype, tile_rows: int) -> None:
    device = Device(dtype, tile_rows)
    device.load("a", {0: 5, 2: 17})
    device.load("b", {0: 8, 1: 1, 2: 9})
    device.load("c", {1: 90})
    mixes: list[tuple[tuple[str, float], ...]] = [
        (("a", 1.0),),
        (("b", 0.5), ("a", -2.0)),
        (("c", 1.0), ("b", 1.0), ("c", 0.25)),
    ]
    for slot, mix in enumerate(mixes):
        device.arena.assign(slot, mix)
    slots = [2, -1, 0, 1, 2]
    x, y = torch.randn(5, 40), torch.randn(5, 56)
    got = device.run(slots, x, y)
    for token, slot in enumerate(slots):
        added = torch.zeros(56) if slot < 0 else device.delta(mixes[slot], x[token])
        torch.testing.assert_close(got[token], y[token] + added, rtol=1e-4, atol=1e-4)


def test_slots_and_chunks_are_used_again() -> None:
    device = Device(torch.float32, 8)
    device.load("a", {0: 5, 1: 20})
    device.arena.assign(1, (("a", 1.0),))
    device.arena.release(1)
    device.arena.evict("a")
    device.next_chunk = 0
    device.load("b", {1: 3})
    device.arena.assign(1, (("b", -1.0),))
    x, y = torch.randn(1, 40), torch.randn(1, 56)
    got = device.run([1], x, y)
    torch.testing.assert_close(got[0], y[0] + device.delta((("b", -1.0),), x[0]))


def test_a_released_slot_is_the_base_model() -> None:
    device = Device(torch.float32, 8)
    device.load("a", {0: 5})
    device.arena.assign(3, (("a", 1.0),))
    device.arena.release(3)
    x, y = torch.randn(2, 40), torch.randn(2, 56)
    assert torch.equal(device.run([3, 3], x, y), y)


def test_dense_entries() -> None:
    device = Device(torch.float32, 8)
    add, gain, row = torch.randn(16), torch.randn(16), torch.randn(40)
    dense = (
        DenseWeights(2, DENSE_ADD, add),
        DenseWeights(0, DENSE_ROW, row, index=3),
        DenseWeights(1, DENSE_SCALE, gain),
    )
    device.load("a", {1: 4}, dense)
    device.arena.assign(0, (("a", 0.5),))
    x, y = torch.randn(1, 40), torch.randn(1, 56)
    expected = y[0] + device.delta((("a", 0.5),), x[0])
    expected[3] = row @ x[0]
    expected[24:40] *= gain
    expected[40:56] += 0.5 * add
    torch.testing.assert_close(device.run([0], x, y)[0], expected, rtol=1e-4, atol=1e-4)


def test_inference_mode_makes_no_difference() -> None:
    with torch.inference_mode():
        device = Device(torch.float32, 8)
        device.load("a", {0: 30, 1: 30})
        device.arena.assign(0, (("a", 1.0),))
    device.load("b", {0: 9})
    device.arena.assign(1, (("b", 1.0),))
    device.arena.release(0)
    x, y = torch.randn(1, 40), torch.randn(1, 56)
    got = device.run([1], x, y)
    torch.testing.assert_close(got[0], y[0] + device.delta((("b", 1.0),), x[0]))


def test_each_command_raises_the_version() -> None:
    device = Device(torch.float32, 8)
    versions = [device.arena.table.version]
    device.load("a", {0: 5})
    versions.append(device.arena.table.version)
    device.arena.assign(0, (("a", 1.0),))
    versions.append(device.arena.table.version)
    device.arena.release(0)
    versions.append(device.arena.table.version)
    device.arena.evict("a")
    versions.append(device.arena.table.version)
    assert versions == sorted(set(versions))


def test_lists_do_not_grow_when_mixes_come_and_go() -> None:
    device = Device(torch.float32, 1)
    dense = (DenseWeights(2, DENSE_ADD, torch.randn(16)),) * 5
    for key in ("a", "b"):
        device.load(key, {0: 30, 1: 12}, dense)
    capacities = set()
    for _ in range(20):
        for slot, mix in enumerate(((("a", 1.0),), (("b", 1.0), ("a", 1.0)))):
            device.arena.assign(slot, mix)
        table = device.arena.table
        capacities.add((table.tile_offset.numel(), table.dense_offset.numel()))
        for slot in (0, 1):
            device.arena.release(slot)
    assert len(capacities) == 1
