"""AdapterCatalog: handles, changed files, holds and eviction."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from plait_kernels.errors import AdapterError, InputError
from plait_kernels.sites import LoraSite
from plait_lora import files
from plait_lora.catalog import AdapterCatalog
from plait_lora.identity import AdapterKey
from plait_lora.request import LoRARequest

Write = Callable[..., Path]
Make = Callable[..., AdapterCatalog]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that are read, as they are read."""
    seen: list[str] = []
    read = files.read_adapter

    def spy(path: str, where: str) -> AbstractContextManager[files.AdapterFiles]:
        seen.append(path)
        return read(path, where)

    monkeypatch.setattr("plait_lora.reader.read_adapter", spy)
    return seen


def resolved(catalog: AdapterCatalog, number: int, path: Path, **options: Any) -> AdapterKey:
    key = catalog.resolve(LoRARequest(f"n{number}", number, str(path), **options))
    assert key is not None
    return key


def test_files_are_read_once(
    tmp_path: Path, write_adapter: Write, make_catalog: Make, reads: list[str]
) -> None:
    path, catalog = write_adapter(tmp_path), make_catalog()
    keys = {resolved(catalog, 1, path) for _ in range(3)}
    keys.add(resolved(catalog, 2, path))
    assert len(keys) == len(reads) == 1
    os.utime(path / "adapter_config.json")
    assert resolved(catalog, 1, path) in keys
    assert len(reads) == 2
    assert catalog.ids() == {1, 2}


def test_two_handles_on_one_content_share_one_copy(
    tmp_path: Path, write_adapter: Write, make_catalog: Make
) -> None:
    first, second = write_adapter(tmp_path / "1"), write_adapter(tmp_path / "2")
    catalog = make_catalog(max_cpu_loras=1)
    key = resolved(catalog, 1, first)
    nbytes = catalog.nbytes
    assert resolved(catalog, 2, second) == key
    assert catalog.nbytes == nbytes > 0
    assert catalog.remove(1)
    assert catalog.resident() == (key,)
    assert catalog.remove(2)
    assert (catalog.resident(), catalog.nbytes) == ((), 0)
    assert not catalog.remove(2)


def test_other_content_under_an_id_is_an_error_unless_in_place(
    tmp_path: Path, write_adapter: Write, make_catalog: Make
) -> None:
    path, catalog = write_adapter(tmp_path / "a", seed=1), make_catalog()
    old = resolved(catalog, 1, path)
    write_adapter(path, seed=2)
    for _ in range(2):
        with pytest.raises(AdapterError, match=r"id 1 names the adapter .*load_inplace=True"):
            resolved(catalog, 1, path)
        assert catalog.resident() == (old,)
        assert catalog.key_of(1) == old
    with pytest.raises(AdapterError, match="id 1 names"):
        resolved(catalog, 1, write_adapter(tmp_path / "b", seed=3))
    new = resolved(catalog, 1, path, load_inplace=True)
    assert new != old
    assert catalog.resident() == (new,), "content that nothing names is freed"
    assert resolved(catalog, 1, path) == new


def test_a_swap_that_keeps_size_and_time_is_seen(
    tmp_path: Path, write_adapter: Write, make_catalog: Make
) -> None:
    path, catalog = write_adapter(tmp_path / "a", seed=1), make_catalog()
    old = resolved(catalog, 1, path)
    weights = path / "adapter_model.safetensors"
    before = weights.stat()
    write_adapter(path, seed=2)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = weights.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert resolved(catalog, 1, path, load_inplace=True) != old


def test_content_in_use_outlives_its_replacement(
    tmp_path: Path, write_adapter: Write, make_catalog: Make
) -> None:
    path, catalog = write_adapter(tmp_path / "a", seed=1), make_catalog()
    old = resolved(catalog, 1, path)
    catalog.hold(old)
    write_adapter(path, seed=2)
    new = resolved(catalog, 1, path, load_inplace=True)
    assert set(catalog.resident()) == {old, new}
    assert catalog.remove(1)
    assert catalog.resident() == (old,)
    catalog.drop(old)
    assert (catalog.resident(), catalog.nbytes) == ((), 0)


def test_the_longest_unused_is_evicted_and_read_again_when_needed(
    tmp_path: Path, write_adapter: Write, make_catalog: Make, reads: list[str]
) -> None:
    paths = [write_adapter(tmp_path / str(i), seed=i) for i in range(3)]
    catalog = make_catalog(max_cpu_loras=2)
    first, second = resolved(catalog, 1, paths[0]), resolved(catalog, 2, paths[1])
    assert resolved(catalog, 1, paths[0]) == first
    third = resolved(catalog, 3, paths[2])
    assert catalog.resident() == (first, third)
    with pytest.raises(AdapterError, match="not in host memory"):
        catalog.get(second)
    with pytest.raises(AdapterError, match="not in host memory"):
        catalog.hold(second)
    assert resolved(catalog, 2, paths[1]) == second
    assert len(reads) == 4
    assert catalog.resident() == (third, second)


def test_a_full_tier_of_held_adapters_makes_wait_without_reading(
    tmp_path: Path, write_adapter: Write, make_catalog: Make, reads: list[str]
) -> None:
    one, two = (write_adapter(tmp_path / str(i), seed=i) for i in range(2))
    catalog = make_catalog(max_cpu_loras=1)
    key = resolved(catalog, 1, one)
    catalog.hold(key)
    catalog.hold(key)
    waiting = LoRARequest("two", 2, str(two))
    for _ in range(3):
        assert catalog.resolve(waiting) is None
    assert len(reads) == 1
    assert catalog.ids() == {1}
    assert catalog.admit(catalog.read(waiting)) is None
    os.utime(one / "adapter_config.json")
    assert resolved(catalog, 1, one) == key, "known content needs no room"
    catalog.drop(key)
    assert catalog.resolve(waiting) is None
    catalog.drop(key)
    assert catalog.resolve(waiting) is not None
    assert key not in catalog.resident()


def test_reads_under_way_count(tmp_path: Path, write_adapter: Write, make_catalog: Make) -> None:
    catalog = make_catalog(max_cpu_loras=3)
    handles = [
        LoRARequest(str(i), i + 1, str(write_adapter(tmp_path / str(i), seed=i))) for i in range(4)
    ]
    # Also where nothing is in memory yet.
    assert [catalog.may_read(handles[0], n) for n in range(4)] == [True, True, True, False]
    keys = [catalog.resolve(handle) for handle in handles[:2]]
    assert keys[0] is not None
    catalog.hold(keys[0])
    # One place is free, and one adapter may be evicted.
    assert [catalog.may_read(handles[3], n) for n in range(3)] == [True, True, False]
    assert catalog.may_read(handles[1], 2), "an adapter that is in memory needs no room"
    assert make_catalog().may_read(handles[0], 1000)


def test_what_was_read_may_have_changed_since(
    tmp_path: Path, write_adapter: Write, make_catalog: Make
) -> None:
    catalog, path = make_catalog(), write_adapter(tmp_path / "a")
    read = catalog.read(LoRARequest("a", 1, str(path)))
    assert catalog.is_current(read)
    os.utime(path / "adapter_config.json")
    assert not catalog.is_current(read)
    (path / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match="has no adapter_config"):
        catalog.is_current(read)


def test_pinned_adapters_stay(tmp_path: Path, write_adapter: Write, make_catalog: Make) -> None:
    one, two, three = (write_adapter(tmp_path / str(i), seed=i) for i in range(3))
    catalog = make_catalog(max_cpu_loras=2)
    assert not catalog.pin(1)
    pinned = resolved(catalog, 1, one)
    assert catalog.pin(1)
    resolved(catalog, 2, two)
    third = resolved(catalog, 3, three)
    assert catalog.resident() == (pinned, third)
    assert catalog.pin(3)
    with pytest.raises(AdapterError, match="all of them pinned"):
        resolved(catalog, 2, two)
    write_adapter(three, seed=7)
    replaced = resolved(catalog, 3, three, load_inplace=True)
    assert set(catalog.resident()) == {pinned, replaced}
    assert catalog.remove(1)
    assert resolved(catalog, 2, two) in catalog.resident()


def test_tensors_in_memory_stay_until_they_are_discarded(
    tmp_path: Path, write_adapter: Write, make_catalog: Make
) -> None:
    key = "layers.0.self_attn.q_proj"
    tensors = {f"{key}.lora_A.weight": torch.ones(2, 16), f"{key}.lora_B.weight": torch.ones(16, 2)}
    config = {"peft_type": "LORA", "r": 2}
    catalog = make_catalog(max_cpu_loras=1)
    kept = catalog.add_tensors(config, tensors, name="mine")
    with pytest.raises(AdapterError, match="all of them pinned or handed over"):
        resolved(catalog, 1, write_adapter(tmp_path))
    with pytest.raises(AdapterError, match="max_cpu_loras is 1"):
        catalog.add_tensors(config, tensors)
    catalog.hold(kept)
    assert catalog.discard(kept)
    assert catalog.resident() == (kept,)
    catalog.drop(kept)
    assert (catalog.resident(), catalog.nbytes) == ((), 0)
    assert not catalog.discard(kept)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
@pytest.mark.parametrize("name", ["max_lora_rank", "max_cpu_loras"])
def test_a_cap_is_a_positive_integer(name: str, value: object, make_catalog: Make) -> None:
    with pytest.raises(InputError, match=name):
        make_catalog(**{name: value})


class CatalogMachine(RuleBasedStateMachine):
    """Random use of a catalog against a model of contents, ids and holds."""

    sites: tuple[LoraSite, ...]
    write: Write

    @initialize(cap=st.sampled_from([1, 2, 1, 3, None]))
    def start(self, cap: int | None) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.catalog = AdapterCatalog(
            self.sites, dtype=torch.float32, chunk_bytes=4096, max_cpu_loras=cap
        )
        self.cap = cap
        self.content: dict[int, int] = {}  # seed on disk, by directory
        self.key_of_seed: dict[int, AdapterKey] = {}
        self.ids: dict[int, int] = {}  # seed that an id names
        self.holds: list[AdapterKey] = []
        self.pinned: set[int] = set()
        for number in range(3):
            self.write_files(number, number)

    def path(self, number: int) -> Path:
        return Path(self.directory.name) / str(number)

    @rule(number=st.integers(0, 2), seed=st.integers(0, 3))
    def write_files(self, number: int, seed: int) -> None:
        type(self).write(self.path(number), seed=seed)
        self.content[number] = seed

    @rule(adapter_id=st.integers(1, 4), number=st.integers(0, 3), in_place=st.booleans())
    def resolve(self, adapter_id: int, number: int, in_place: bool) -> None:
        path = str(self.path(number))
        request = LoRARequest("n", adapter_id, path, load_inplace=in_place)
        before = (self.catalog.resident(), self.catalog.ids(), self.catalog.nbytes)
        try:
            key = self.catalog.resolve(request)
        except AdapterError:
            assert set(before[0]) == set(self.catalog.resident())
            assert before[1:] == (self.catalog.ids(), self.catalog.nbytes)
            if number in self.content:
                swapped = self.ids.get(adapter_id, self.content[number]) != self.content[number]
                assert (swapped and not in_place) or self.pinned
            return
        seed = self.content[number]
        if key is None:
            assert self.cap is not None
            assert len(before[0]) == self.cap
            assert set(before[0]) & set(self.holds)
            assert before == (self.catalog.resident(), self.catalog.ids(), self.catalog.nbytes)
            return
        assert in_place or self.ids.get(adapter_id, seed) == seed, "an id names one content"
        assert self.key_of_seed.setdefault(seed, key) == key
        assert key in self.catalog.resident()
        self.ids[adapter_id] = seed

    @precondition(lambda self: self.catalog.resident())
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.catalog.resident()))
        self.catalog.hold(key)
        self.holds.append(key)

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.catalog.drop(self.holds.pop(data.draw(st.integers(0, len(self.holds) - 1))))

    @rule(adapter_id=st.integers(1, 4))
    def remove(self, adapter_id: int) -> None:
        assert self.catalog.remove(adapter_id) == (adapter_id in self.ids)
        self.ids.pop(adapter_id, None)
        self.pinned.discard(adapter_id)

    @rule(adapter_id=st.integers(1, 4))
    def pin(self, adapter_id: int) -> None:
        assert self.catalog.pin(adapter_id) == (adapter_id in self.ids)
        if adapter_id in self.ids:
            self.pinned.add(adapter_id)

    @invariant()
    def held_stays_and_unnamed_goes(self) -> None:
        keys = set(self.catalog.resident())
        assert self.catalog.ids() == set(self.ids)
        assert set(self.holds) <= keys
        named = {self.key_of_seed[seed] for seed in self.ids.values()}
        assert keys <= named | set(self.holds)
        assert self.cap is None or len(keys) <= self.cap
        assert self.catalog.nbytes == sum(self.catalog.get(key).nbytes for key in sorted(keys))

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.directory.cleanup()


def test_catalog_machine(sites: tuple[LoraSite, ...], write_adapter: Write) -> None:
    machine = type(
        "Machine", (CatalogMachine,), {"sites": sites, "write": staticmethod(write_adapter)}
    )
    run_state_machine_as_test(
        machine, settings=settings(max_examples=120, stateful_step_count=25, deadline=None)
    )
