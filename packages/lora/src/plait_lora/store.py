"""AdapterStore: which adapters and mixes are on the device. Bookkeeping only, imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait_kernels.errors import OutOfMemoryError
from plait_lora.chunk_pool import ChunkPool
from plait_lora.commands import LoadCommand, StoreCommands
from plait_lora.identity import AdapterKey, Mix, distinct_keys
from plait_lora.lease import AdapterState, Entry, Lease
from plait_lora.slots import SlotTable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


class AdapterStore:
    """States, chunks, slots and leases of adapters on the device.

    The store decides and remembers; whoever owns the arena executes ``take_commands`` and reports
    finished loads with ``loaded``. An adapter that nobody leases stays until its chunks are
    needed; the one longest unused goes first.

    Parameters
    ----------
    num_chunks : int
        Chunks of the arena.
    num_slots : int
        Slots of the tables.
    max_loras : int, optional
        The most adapters on the device at a time. None: as many as fit.

    Examples
    --------
    >>> from plait_lora.identity import AdapterKey
    >>> store = AdapterStore(num_chunks=4, num_slots=2)
    >>> key = AdapterKey("a")
    >>> store.register(key, runs=(1, 1))
    >>> lease = store.lease(((key, 1.0),))
    >>> lease.slot, lease.ready
    (0, False)
    >>> store.take_commands().loads
    (LoadCommand(key='a', chunks=(0, 1)),)
    >>> store.loaded([key])
    >>> lease.ready
    True
    """

    def __init__(self, num_chunks: int, num_slots: int, max_loras: int | None = None) -> None:
        self._num_slots = num_slots
        self._max_loras = max_loras
        self._pool = ChunkPool(num_chunks)
        self._slots = SlotTable(num_slots)
        self._reset = False
        self._entries: dict[AdapterKey, Entry] = {}
        self._resident: dict[AdapterKey, Entry] = {}  # longest unused first
        self._loads: dict[AdapterKey, LoadCommand] = {}
        self._evictions: dict[AdapterKey, None] = {}
        self._leases: set[Lease] = set()

    @property
    def num_chunks(self) -> int:
        """Chunks of the arena."""
        return self._pool.num_chunks

    @property
    def num_free_chunks(self) -> int:
        """Chunks that belong to no adapter."""
        return self._pool.num_free

    def resident(self) -> dict[AdapterKey, AdapterState]:
        """Return the adapters that have chunks, LOADING or READY, longest unused first."""
        return {key: entry.state for key, entry in self._resident.items()}

    def assigned(self) -> dict[int, Mix]:
        """Return the mix of every slot that has one, in use or not."""
        return self._slots.assigned()

    def chunks(self, key: AdapterKey) -> tuple[int, ...]:
        """Return the first chunk of each run of an adapter; empty when it is not resident."""
        return self._entry(key).chunks

    def register(self, key: AdapterKey, runs: Sequence[int]) -> None:
        """Make an adapter known. It stays on the host until a lease names it.

        Parameters
        ----------
        key : AdapterKey
            Registering a key again with the same runs changes nothing.
        runs : Sequence[int]
            Lengths of the runs of adjacent chunks it needs, each at least 1.
        """
        entry = self._entries.setdefault(key, Entry(key, tuple(runs)))
        assert entry.runs == tuple(runs), "one key has one layout"

    def is_registered(self, key: AdapterKey) -> bool:
        """Whether ``register`` has been called and ``forget`` has not."""
        return key in self._entries

    def forget(self, key: AdapterKey) -> bool:
        """Take an adapter off the device and out of the store, with its pin.

        Returns
        -------
        bool
            False, with nothing changed, while it is leased or its load is in flight: try again
            later. True otherwise, also when the key was not known.
        """
        entry = self._entries.get(key)
        if entry is None:
            return True
        if entry.leases or entry.in_flight:
            return False
        if entry.resident:
            self._evict(entry)
        del self._entries[key]
        return True

    def keys(self) -> set[AdapterKey]:
        """Return the adapters that are registered."""
        return set(self._entries)

    def pin_only(self, keys: Collection[AdapterKey]) -> None:
        """Pin these adapters, and no others."""
        for entry in self._entries.values():
            entry.pinned = entry.key in keys

    def pin(self, key: AdapterKey) -> None:
        """Keep an adapter on the device from the next time it gets there, until ``unpin``."""
        self._entry(key).pinned = True

    def unpin(self, key: AdapterKey) -> None:
        """Let an adapter be evicted again."""
        self._entry(key).pinned = False

    def lease(self, mix: Mix) -> Lease | None:
        """Lease a mix: a slot, and chunks for every adapter of it.

        Idle adapters and slots are taken, the longest unused first, when there is no other room,
        and only if that makes room enough.

        Parameters
        ----------
        mix : Mix
            Not empty; every adapter registered.

        Returns
        -------
        Lease | None
            None, with nothing changed, when what is leased or in flight has to be given back or
            to arrive first.

        Raises
        ------
        OutOfMemoryError
            If the mix does not fit although nothing else were leased.
        """
        assert mix, "the base model needs no lease"
        entries = tuple(self._entry(key) for key in distinct_keys(mix))
        self._check_fits_alone(entries)
        if not self._slots.can_acquire(mix) or not self._make_resident(entries):
            return None
        for entry in entries:
            entry.leases += 1
            self._resident[entry.key] = self._resident.pop(entry.key)
        lease = Lease(self._slots.acquire(mix), mix, entries)
        self._leases.add(lease)
        return lease

    def release(self, lease: Lease) -> None:
        """Give a lease back. Its slot and adapters stay until they are needed."""
        assert lease in self._leases, "a lease is released once"
        self._leases.remove(lease)
        self._slots.release(lease.slot)
        for entry in lease.entries:
            entry.leases -= 1
            self._resident[entry.key] = self._resident.pop(entry.key)

    def take_commands(self) -> StoreCommands:
        """Return what the device has to do since the last call, each command once."""
        releases, assigns = self._slots.take_changes()
        commands = StoreCommands(
            releases, tuple(self._evictions), tuple(self._loads.values()), assigns, self._reset
        )
        for key in self._loads:
            self._entries[key].in_flight = True
        self._loads.clear()
        self._evictions.clear()
        self._reset = False
        return commands

    def reset(self) -> None:
        """Take every adapter off the device and every lease back: nobody knows what is there.

        The next commands say so to the device. What is registered and what is pinned stay so.
        Leases are void, and must not be released. It may be called in any state of the books,
        also after another call of it was broken off.
        """
        self._reset = True
        self._pool = ChunkPool(self._pool.num_chunks)
        self._slots = SlotTable(self._num_slots)
        self._resident = {}
        self._loads = {}
        self._evictions = {}
        self._leases = set()
        for entry in self._entries.values():
            entry.state = AdapterState.HOST
            entry.chunks = ()
            entry.in_flight = False
            entry.leases = 0

    def failed(self, key: AdapterKey) -> None:
        """Report a load that the device could not do; every lease of it has been released."""
        entry = self._entry(key)
        assert entry.in_flight, "a load is reported once"
        assert not entry.leases, "requests that wait for it end first"
        entry.in_flight = False
        self._evict(entry)

    def loaded(self, keys: Iterable[AdapterKey]) -> None:
        """Report loads that the device has finished: LOADING becomes READY."""
        for key in keys:
            entry = self._entry(key)
            assert entry.in_flight, "a load is reported once"
            entry.in_flight = False
            entry.state = AdapterState.READY

    def _entry(self, key: AdapterKey) -> Entry:
        entry = self._entries.get(key)
        assert entry is not None, f"adapter {key} is not registered"
        return entry

    def _check_fits_alone(self, entries: tuple[Entry, ...]) -> None:
        if self._num_slots < 1:
            msg = "the store has 0 slots, so no adapter can run; allow at least one"
            raise OutOfMemoryError(msg)
        if all(entry.resident for entry in entries):
            return
        fixed = [entry for entry in self._resident.values() if entry.pinned]
        wanted = [entry for entry in entries if entry not in fixed]
        count = len(fixed) + len(wanted)
        runs = [length for entry in wanted for length in entry.runs]
        # An empty arena holds any runs that are not longer than it in sum; only pinned adapters
        # can leave gaps that are too short.
        free = self._pool.num_chunks - sum(sum(entry.runs) for entry in fixed)
        if self._max_loras is not None and count > self._max_loras:
            msg = (
                f"the request needs {len(entries)} adapters on the device at once and "
                f"{len([e for e in fixed if e not in entries])} others are pinned, but "
                f"max_loras is {self._max_loras}; raise max_loras or unpin adapters"
            )
            raise OutOfMemoryError(msg)
        if sum(runs) > free or (fixed and not self._fits_between_pinned(runs)):
            msg = (
                f"the adapters of the request need {sum(runs)} chunks (longest run {max(runs)}), "
                f"but of the {self._pool.num_chunks} chunks of adapter memory at most {free} "
                f"can be freed ({len(fixed)} adapters are pinned); give adapters more memory, "
                f"unpin some, or use adapters of lower rank"
            )
            raise OutOfMemoryError(msg)

    def _fits_between_pinned(self, runs: list[int]) -> bool:
        pool = self._pool.copy()
        for entry in self._resident.values():
            if not entry.pinned:
                pool.free(entry.chunks, entry.runs)
        return pool.allocate(runs) is not None

    def _make_resident(self, entries: tuple[Entry, ...]) -> bool:
        missing = [entry for entry in entries if not entry.resident]
        if not missing:
            return True
        victims = self._choose_victims(entries, missing)
        if victims is None:
            return False
        for victim in victims:
            self._evict(victim)
        missing = [entry for entry in entries if not entry.resident]
        firsts = self._pool.allocate([length for entry in missing for length in entry.runs])
        assert firsts is not None, "the choice of victims made room"
        for entry in missing:
            entry.chunks, firsts = firsts[: len(entry.runs)], firsts[len(entry.runs) :]
            entry.state = AdapterState.LOADING
            self._resident[entry.key] = entry
            self._loads[entry.key] = LoadCommand(entry.key, entry.chunks)
        return True

    def _choose_victims(
        self, entries: tuple[Entry, ...], missing: list[Entry]
    ) -> list[Entry] | None:
        pool = self._pool.copy()
        wanted = list(missing)
        count = len(self._resident) + len(missing)
        victims: list[Entry] = []
        movable = [entry for entry in self._resident.values() if entry.movable]
        # The mix's own idle adapters come last: moving them costs a load and helps only where
        # they lie in the middle of the room that a longer run needs.
        candidates = iter(sorted(movable, key=lambda entry: entry in entries))
        while True:
            runs = [length for entry in wanted for length in entry.runs]
            few_enough = self._max_loras is None or count <= self._max_loras
            if few_enough and sum(runs) <= pool.num_free and pool.copy().allocate(runs) is not None:
                return victims
            victim = next(candidates, None)
            if victim is None:
                return None
            victims.append(victim)
            pool.free(victim.chunks, victim.runs)
            if victim in entries:
                wanted.append(victim)
            else:
                count -= 1

    def _evict(self, entry: Entry) -> None:
        self._pool.free(entry.chunks, entry.runs)
        self._slots.drop_adapter(entry.key)
        del self._resident[entry.key]
        # A load that was never commanded is simply taken back.
        if self._loads.pop(entry.key, None) is None:
            self._evictions[entry.key] = None
        entry.chunks = ()
        entry.state = AdapterState.HOST
