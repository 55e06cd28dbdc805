"""State machine: the tables describe exactly the mixes that are resident."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from plait_kernels.sites import LoraSite
from plait_lora.arena import LoraArena
from plait_lora.layout import AdapterLayout, ModuleShape
from plait_lora.tables import RangeAllocator
from plait_lora.weights import ModuleWeights

SITES = tuple(LoraSite(i, f"layers.{i}.o_proj", "o", 4, 6) for i in range(4))
NUM_SLOTS, NUM_CHUNKS, CHUNK = 4, 40, 1024
KEYS = ("a", "b", "c", "d")


class ArenaMachine(RuleBasedStateMachine):
    @initialize(tile_rows=st.sampled_from((1, 2, 8)))
    def start(self, tile_rows: int) -> None:
        self.arena = LoraArena(
            NUM_CHUNKS, CHUNK, NUM_SLOTS, SITES, torch.float32, tile_rows=tile_rows, list_capacity=2
        )
        self.tile_rows = tile_rows
        self.loaded: dict[str, dict[int, ModuleWeights]] = {}
        self.mixes: dict[int, tuple[tuple[str, float], ...]] = {}

    @rule(
        key=st.sampled_from(KEYS),
        ranks=st.dictionaries(st.integers(0, 3), st.integers(1, 20), min_size=1),
        data=st.data(),
    )
    def load(self, key: str, ranks: dict[int, int], data: Any) -> None:
        if key in self.loaded:
            return
        modules = {
            site: ModuleWeights(torch.randn(rank, 4), torch.randn(6, rank), 0.5 + site)
            for site, rank in ranks.items()
        }
        layout = AdapterLayout.plan(
            [ModuleShape(site, rank, 4, 6) for site, rank in ranks.items()],
            chunk_bytes=CHUNK,
            itemsize=4,
            tile_rows=self.tile_rows,
        )
        # ten chunks a key: more than any of these adapters needs
        first = 10 * KEYS.index(key)
        chunks, at = [], first
        for run in layout.runs:
            chunks.append(at)
            at += run
        assert at <= first + 10
        self.arena.load(key, layout, chunks, modules)
        self.loaded[key] = modules

    @precondition(lambda self: self.loaded)
    @rule(slot=st.integers(0, NUM_SLOTS - 1), data=st.data())
    def assign(self, slot: int, data: Any) -> None:
        if slot in self.mixes:
            return
        part = st.tuples(st.sampled_from(sorted(self.loaded)), st.sampled_from((1.0, -0.5)))
        mix = tuple(data.draw(st.lists(part, min_size=1, max_size=3)))
        self.arena.assign(slot, mix)
        self.mixes[slot] = mix

    @precondition(lambda self: self.mixes)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        slot = data.draw(st.sampled_from(sorted(self.mixes)))
        self.arena.release(slot)
        del self.mixes[slot]

    @rule(broken=st.sampled_from([None, "tiles", "ranges", "columns"]))
    def reset(self, broken: str | None) -> None:
        """Whatever a load or an assignment has left half done."""
        if broken == "tiles":
            self.arena._residents["half"] = None  # type: ignore[assignment]
        elif broken == "ranges":
            self.arena._tiles.ranges.allocate(1)
        elif broken == "columns":
            columns = self.arena._tiles.columns
            columns["offset"] = columns["offset"].new_zeros(2 * len(columns["offset"]))
        before = self.arena.table.version
        self.arena.reset()
        assert self.arena.table.version > before
        self.loaded.clear()
        self.mixes.clear()

    @rule(slot=st.integers(0, NUM_SLOTS - 1), key=st.sampled_from(KEYS))
    def nothing_to_give_back(self, slot: int, key: str) -> None:
        if slot not in self.mixes:
            self.arena.release(slot)
        if key not in self.loaded:
            self.arena.evict(key)

    @rule(key=st.sampled_from(KEYS))
    def evict(self, key: str) -> None:
        named = {name for mix in self.mixes.values() for name, _ in mix}
        if key in self.loaded and key not in named:
            self.arena.evict(key)
            del self.loaded[key]

    @invariant()
    def tables_describe_the_mixes(self) -> None:
        used: set[int] = set()
        for slot in range(NUM_SLOTS):
            assert self.arena.slot_tiles[slot] == self.arena.table.tile_count[slot].sum()
            for site in SITES:
                tiles = self.tiles(slot, site)
                assert not used.intersection(tiles)
                used.update(tiles)
                modules = [
                    (self.loaded[key][site.index], weight)
                    for key, weight in self.mixes.get(slot, ())
                    if site.index in self.loaded[key]
                ]
                expected = sum(
                    (weight * m.scale * m.b @ m.a for m, weight in modules), torch.zeros(6, 4)
                )
                delta = self.delta(tiles)
                torch.testing.assert_close(delta, expected, rtol=1e-4, atol=1e-4)
                rows = sum(int(self.arena.table.tile_rank[tile]) for tile in tiles)
                assert rows == sum(module.rank for module, _ in modules)

    def tiles(self, slot: int, site: LoraSite) -> range:
        table = self.arena.table
        start = int(table.tile_start[slot, site.index])
        return range(start, start + int(table.tile_count[slot, site.index]))

    def delta(self, tiles: range) -> torch.Tensor:
        table, t = self.arena.table, self.tile_rows
        total = torch.zeros(6, 4)
        for tile in tiles:
            offset, rank = int(table.tile_offset[tile]), int(table.tile_rank[tile])
            values = table.arena[offset : offset + t * 40].view(torch.float32)
            a, b = values[: 4 * t].view(t, 4)[:rank], values[4 * t :].view(t, 6)[:rank]
            total += table.tile_scale[tile] * b.T @ a
        return total


TestArena = ArenaMachine.TestCase
TestArena.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


class RangeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ranges = RangeAllocator(8)
        self.taken: list[tuple[int, int]] = []

    @rule(length=st.integers(1, 5))
    def allocate(self, length: int) -> None:
        start = self.ranges.allocate(length)
        free = set(range(self.ranges.capacity)) - self.entries()
        if start is None:
            assert not any(set(range(i, i + length)) <= free for i in free)
        else:
            assert set(range(start, start + length)) <= free
            self.taken.append((start, length))

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def free(self, data: Any) -> None:
        part = data.draw(st.sampled_from(self.taken))
        self.taken.remove(part)
        self.ranges.free(*part)

    @rule()
    def grow(self) -> None:
        self.ranges.grow(self.ranges.capacity + 4)

    @invariant()
    def nothing_leaks(self) -> None:
        assert self.ranges.num_free == self.ranges.capacity - len(self.entries())

    def entries(self) -> set[int]:
        return {entry for start, n in self.taken for entry in range(start, start + n)}


TestRanges = RangeMachine.TestCase
TestRanges.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
