"""AdapterStore: single cases, and a state machine with a model of the device."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from plait_kernels.errors import OutOfMemoryError
from plait_lora.identity import AdapterKey, Mix
from plait_lora.lease import AdapterState, Lease
from plait_lora.store import AdapterStore

A, B, C = (AdapterKey(name) for name in "abc")


def only(key: AdapterKey) -> Mix:
    return ((key, 1.0),)


def run_commands(store: AdapterStore) -> None:
    store.loaded([load.key for load in store.take_commands().loads])


def filled(num_chunks: int, num_slots: int, **options: int) -> AdapterStore:
    store = AdapterStore(num_chunks, num_slots, **options)
    for key in (A, B, C):
        store.register(key, (1,))
    return store


def test_lease_loads_assigns_and_becomes_ready() -> None:
    store = filled(4, 2)
    lease = store.lease(only(A))
    assert lease is not None
    assert not lease.ready
    commands = store.take_commands()
    assert [load.key for load in commands.loads] == [A]
    assert commands.assigns == ((lease.slot, only(A)),)
    assert not commands.evictions
    assert not store.take_commands()
    store.loaded([A])
    assert lease.ready
    assert store.resident() == {A: AdapterState.READY}


def test_a_mix_that_comes_back_needs_no_command() -> None:
    store = filled(4, 2)
    first = store.lease(only(A))
    assert first is not None
    run_commands(store)
    store.release(first)
    again = store.lease(only(A))
    assert again is not None
    assert (again.slot, again.ready) == (first.slot, True)
    assert not store.take_commands()


def test_leases_of_one_mix_share_a_slot_and_other_weights_do_not() -> None:
    store = filled(4, 2)
    first, second, other = store.lease(only(A)), store.lease(only(A)), store.lease(((A, 0.5),))
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.slot == second.slot != other.slot
    assert store.num_free_chunks == 3
    store.release(first)
    assert store.lease(only(B)) is None, "both slots are still in use"


def test_the_adapter_longest_unused_is_evicted_and_its_chunk_reused() -> None:
    store = filled(2, 3)
    for key in (A, B):
        lease = store.lease(only(key))
        assert lease is not None
        run_commands(store)
        store.release(lease)
    again = store.lease(only(A))
    assert again is not None
    store.release(again)
    (chunk,) = store.chunks(B)
    slot_of_b = {mix: slot for slot, mix in store.assigned().items()}[only(B)]
    assert store.lease(only(C)) is not None
    commands = store.take_commands()
    assert commands.evictions == (B,)
    assert commands.releases == (slot_of_b,)
    assert [(load.key, load.chunks) for load in commands.loads] == [(C, (chunk,))]


def test_waiting_changes_nothing() -> None:
    store = filled(2, 3)
    held = store.lease(only(A))
    idle = store.lease(only(B))
    assert held is not None
    assert idle is not None
    run_commands(store)
    store.release(idle)
    before = (store.resident(), store.assigned(), store.num_free_chunks)
    store.register(AdapterKey("two"), (1, 1))
    assert store.lease(only(AdapterKey("two"))) is None
    assert (store.resident(), store.assigned(), store.num_free_chunks) == before
    assert not store.take_commands()


def test_max_loras_caps_the_adapters_on_the_device() -> None:
    store = filled(8, 8, max_loras=1)
    lease = store.lease(only(A))
    assert lease is not None
    run_commands(store)
    assert store.lease(only(B)) is None
    store.release(lease)
    assert store.lease(only(B)) is not None
    assert set(store.resident()) == {B}
    with pytest.raises(OutOfMemoryError, match="max_loras is 1"):
        store.lease(((A, 1.0), (C, 1.0)))


def test_what_never_fits_is_an_error_with_the_numbers() -> None:
    store = filled(3, 2)
    store.register(AdapterKey("large"), (2, 2))
    with pytest.raises(OutOfMemoryError, match=r"need 4 chunks .*of the 3 chunks"):
        store.lease(only(AdapterKey("large")))
    with pytest.raises(OutOfMemoryError, match="0 slots"):
        filled(3, 0).lease(only(A))


def test_pinned_adapters_stay_and_count_against_what_can_ever_fit() -> None:
    store = filled(2, 3)
    store.pin(A)
    lease = store.lease(only(A))
    assert lease is not None
    run_commands(store)
    store.release(lease)
    store.register(AdapterKey("two"), (1, 1))
    with pytest.raises(OutOfMemoryError, match="1 adapters are pinned"):
        store.lease(only(AdapterKey("two")))
    store.unpin(A)
    assert store.lease(only(AdapterKey("two"))) is not None
    assert A not in store.resident()


def test_pinned_adapters_that_leave_only_short_gaps_are_an_error() -> None:
    store = AdapterStore(3, 3)
    long = AdapterKey("long")
    store.register(long, (2,))
    for key in (A, B):
        store.register(key, (1,))
        assert store.lease(only(key)) is not None
    run_commands(store)
    store.pin(B)  # in the middle of three chunks
    assert store.chunks(B) == (1,)
    with pytest.raises(OutOfMemoryError, match=r"longest run 2.* at most 2 can be freed"):
        store.lease(only(long))


def test_a_long_run_moves_idle_adapters_of_its_own_mix() -> None:
    store = AdapterStore(5, 4)
    long = AdapterKey("long")
    store.register(long, (4,))
    for key in (A, B, C):
        store.register(key, (1,))
    leases = [store.lease(only(key)) for key in (A, B, C)]
    run_commands(store)
    for lease in leases:
        assert lease is not None
        store.release(lease)
    # C lies in the middle of the five chunks, so no run of four is free without moving it.
    lease = store.lease(((C, 1.0), (long, 1.0)))
    assert lease is not None
    assert store.num_free_chunks == 0
    run_commands(store)
    assert lease.ready


def test_an_adapter_in_flight_is_not_evicted() -> None:
    store = filled(1, 2)
    lease = store.lease(only(A))
    assert lease is not None
    store.take_commands()
    store.release(lease)
    assert store.lease(only(B)) is None
    assert not store.forget(A)
    store.loaded([A])
    assert store.lease(only(B)) is not None


def test_a_load_that_was_never_commanded_is_taken_back() -> None:
    store = filled(1, 1)
    lease = store.lease(only(A))
    assert lease is not None
    store.release(lease)
    assert store.lease(only(B)) is not None
    commands = store.take_commands()
    assert [load.key for load in commands.loads] == [B]
    assert not commands.evictions
    assert commands.assigns == ((0, only(B)),)


def test_forget_evicts_an_idle_adapter_and_waits_for_a_leased_one() -> None:
    store = filled(2, 2)
    lease = store.lease(only(A))
    assert lease is not None
    run_commands(store)
    assert not store.forget(A)
    store.release(lease)
    assert store.forget(A)
    assert store.take_commands().evictions == (A,)
    assert not store.is_registered(A)
    assert store.num_free_chunks == 2
    assert store.forget(A)


def test_the_store_imports_no_torch() -> None:
    code = (
        "import sys, plait_lora, plait_lora.store, plait_lora.request, plait_lora.identity\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class StoreMachine(RuleBasedStateMachine):
    """Random use of a store, its commands replayed on a model of the device."""

    @initialize(
        num_chunks=st.integers(1, 8),
        num_slots=st.integers(1, 4),
        max_loras=st.none() | st.integers(1, 4),
        layouts=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), max_size=6),
    )
    def start(
        self, num_chunks: int, num_slots: int, max_loras: int | None, layouts: list[list[int]]
    ) -> None:
        self.num_chunks, self.num_slots, self.max_loras = num_chunks, num_slots, max_loras
        self.store = AdapterStore(num_chunks, num_slots, max_loras)
        self.runs = {AdapterKey(f"k{i}"): tuple(runs) for i, runs in enumerate([[1], *layouts])}
        for key, runs in self.runs.items():
            self.store.register(key, runs)
        self.leases: list[Lease] = []
        self.pinned: set[AdapterKey] = set()
        self.chunk_owner: dict[int, AdapterKey] = {}  # the device
        self.on_device: dict[AdapterKey, tuple[int, ...]] = {}
        self.arrived: set[AdapterKey] = set()
        self.unreported: list[AdapterKey] = []
        self.slots: dict[int, Mix] = {}
        self.failed: set[AdapterKey] = set()

    def footprint(self, key: AdapterKey, firsts: tuple[int, ...]) -> list[int]:
        runs = zip(firsts, self.runs[key], strict=True)
        return [chunk for first, length in runs for chunk in range(first, first + length)]

    @rule(data=st.data())
    def lease(self, data: st.DataObject) -> None:
        keys = st.sampled_from(sorted(self.runs))
        mix = tuple(
            (key, weight)
            for key, weight in data.draw(
                st.lists(st.tuples(keys, st.sampled_from([1.0, -0.5])), min_size=1, max_size=3)
            )
        )
        needed = {key for key, _ in mix}
        fixed = (self.pinned & set(self.store.resident())) | needed
        fits_pool = sum(sum(self.runs[key]) for key in fixed) <= self.num_chunks
        fits_cap = self.max_loras is None or len(fixed) <= self.max_loras
        before = (self.store.resident(), self.store.assigned(), self.store.num_free_chunks)
        try:
            lease = self.store.lease(mix)
        except OutOfMemoryError:
            pins_fragment = bool(self.pinned)
            assert not (fits_pool and fits_cap) or pins_fragment
            lease = None
        else:
            assert fits_pool or needed <= set(before[0])
            if lease is None and not self.leases and not self.unreported:
                in_flight = {k for k, s in before[0].items() if s is AdapterState.LOADING}
                assert in_flight, "nothing is in the way, and yet the lease was not granted"
        if lease is None:
            after = (self.store.resident(), self.store.assigned(), self.store.num_free_chunks)
            assert after == before
            return
        assert lease.mix == mix
        self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        place = data.draw(st.integers(0, len(self.leases) - 1))
        self.store.release(self.leases.pop(place))

    @rule()
    def execute(self) -> None:
        commands = self.store.take_commands()
        if commands.reset:
            self.chunk_owner.clear()
            self.on_device.clear()
            self.arrived.clear()
            self.slots.clear()
        for slot in commands.releases:
            if slot in self.slots or not self.failed:
                del self.slots[slot]
        for key in commands.evictions:
            if key in self.failed:
                self.failed.remove(key)
                continue
            assert all(key != named for mix in self.slots.values() for named, _ in mix)
            for chunk in self.footprint(key, self.on_device.pop(key)):
                del self.chunk_owner[chunk]
            self.arrived.discard(key)
        for load in commands.loads:
            assert load.key not in self.on_device
            for chunk in self.footprint(load.key, load.chunks):
                assert 0 <= chunk < self.num_chunks
                assert chunk not in self.chunk_owner, "a chunk belongs to one adapter"
                self.chunk_owner[chunk] = load.key
            self.on_device[load.key] = load.chunks
            self.unreported.append(load.key)
        for slot, mix in commands.assigns:
            assert 0 <= slot < self.num_slots
            assert slot not in self.slots
            assert all(key in self.on_device for key, _ in mix)
            self.slots[slot] = mix
        assert self.slots == self.store.assigned()
        assert self.on_device == {key: self.store.chunks(key) for key in self.store.resident()}
        assert not self.store.take_commands()

    @precondition(lambda self: self.unreported)
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        key = self.unreported.pop(data.draw(st.integers(0, len(self.unreported) - 1)))
        self.store.loaded([key])
        self.arrived.add(key)

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """The device could not load an adapter, nor assign a slot that names it."""
        leased = {key for lease in self.leases for key, _ in lease.mix}
        idle = [key for key in self.unreported if key not in leased]
        if idle:
            key = data.draw(st.sampled_from(idle))
            self.unreported.remove(key)
            for chunk in self.footprint(key, self.on_device.pop(key)):
                del self.chunk_owner[chunk]
            named = {slot for slot, mix in self.slots.items() if any(k == key for k, _ in mix)}
            self.slots = {slot: mix for slot, mix in self.slots.items() if slot not in named}
            self.failed.add(key)
            self.store.failed(key)

    @rule(twice=st.booleans())
    def reset(self, twice: bool) -> None:
        """A step broke: nobody knows what is on the device."""
        for _ in range(1 + twice):
            self.store.reset()
        self.leases.clear()
        self.unreported.clear()
        self.failed.clear()
        assert self.store.num_free_chunks == self.num_chunks

    @rule(data=st.data())
    def toggle_pin(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.runs)))
        if key in self.pinned:
            self.store.unpin(key)
            self.pinned.remove(key)
        else:
            self.store.pin(key)
            self.pinned.add(key)

    @rule(data=st.data())
    def forget_and_register(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.runs)))
        leased = any(key == named for lease in self.leases for named, _ in lease.mix)
        assert self.store.forget(key) == (not leased and key not in self.unreported)
        if not self.store.is_registered(key):
            self.pinned.discard(key)
            self.store.register(key, self.runs[key])
            assert key not in self.store.resident()

    @rule()
    def drain(self) -> None:
        """When all is given back and reported, whatever fits is granted."""
        for lease in self.leases:
            self.store.release(lease)
        self.leases.clear()
        self.execute()
        while self.unreported:
            self.store.loaded([self.unreported.pop()])
        self.arrived = set(self.on_device)
        for key in list(self.pinned):
            self.store.unpin(key)
        self.pinned.clear()
        for key, runs in self.runs.items():
            if sum(runs) <= self.num_chunks:
                granted = self.store.lease(((key, 2.0),))
                assert granted is not None
                self.store.release(granted)

    @invariant()
    def leased_adapters_and_slots_stay(self) -> None:
        if not hasattr(self, "store"):
            return
        resident, assigned = self.store.resident(), self.store.assigned()
        mixes = {lease.slot: lease.mix for lease in self.leases}
        assert len({lease.mix for lease in self.leases}) == len(mixes), "one slot, one mix"
        for lease in self.leases:
            assert assigned[lease.slot] == lease.mix
            assert all(key in resident for key, _ in lease.mix)
            assert lease.ready == all(resident[key] is AdapterState.READY for key, _ in lease.mix)

    @invariant()
    def ready_means_arrived(self) -> None:
        if not hasattr(self, "store"):
            return
        ready = {k for k, s in self.store.resident().items() if s is AdapterState.READY}
        assert ready <= self.arrived

    @invariant()
    def nothing_leaks(self) -> None:
        if not hasattr(self, "store"):
            return
        resident = self.store.resident()
        used = [chunk for key in resident for chunk in self.footprint(key, self.store.chunks(key))]
        assert len(used) == len(set(used)), "a chunk belongs to one adapter"
        assert len(used) + self.store.num_free_chunks == self.num_chunks
        assert self.max_loras is None or len(resident) <= self.max_loras


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
