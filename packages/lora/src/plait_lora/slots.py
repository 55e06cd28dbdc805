"""SlotTable: which mix each slot of the device holds. Bookkeeping only, imports no torch."""

from __future__ import annotations

from collections import OrderedDict

from plait_lora.identity import BASE_MIX, AdapterKey, Mix


class SlotTable:
    """Slots with their mixes, users and what the device has been told.

    A slot that nobody uses keeps its mix until another mix needs the slot (the one longest unused
    goes first), so a mix that comes back needs no command.

    Parameters
    ----------
    num_slots : int
    """

    def __init__(self, num_slots: int) -> None:
        assert num_slots >= 0
        self._mixes: list[Mix] = [BASE_MIX] * num_slots
        self._told: list[Mix] = [BASE_MIX] * num_slots
        self._users = [0] * num_slots
        self._slot_of: dict[Mix, int] = {}
        # unassigned slots first, then the longest unused
        self._idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_slots))
        # slots that name an adapter, or have named it since it came to the device
        self._named: dict[AdapterKey, set[int]] = {}
        self._changed: set[int] = set()
        self._stale: set[int] = set()  # told of an adapter that has been evicted since

    def can_acquire(self, mix: Mix) -> bool:
        """Whether ``acquire`` would return a slot."""
        return mix in self._slot_of or bool(self._idle)

    def acquire(self, mix: Mix) -> int:
        """Return the slot of ``mix``, with one user more; ``can_acquire`` must hold."""
        slot = self._slot_of.get(mix)
        if slot is None:
            slot = next(iter(self._idle))
            self._unassign(slot)
            self._mixes[slot] = mix
            self._slot_of[mix] = slot
            self._changed.add(slot)
            for key, _ in mix:
                self._named.setdefault(key, set()).add(slot)
        self._idle.pop(slot, None)
        self._users[slot] += 1
        return slot

    def release(self, slot: int) -> None:
        """Take one user from ``slot``."""
        assert self._users[slot] > 0
        self._users[slot] -= 1
        if not self._users[slot]:
            self._idle[slot] = None

    def drop_adapter(self, key: AdapterKey) -> None:
        """Empty the slots whose mix names an adapter that leaves the device; none is in use."""
        for slot in sorted(self._named.pop(key, ())):
            if _names(self._told[slot], key):
                self._stale.add(slot)
                self._changed.add(slot)
            if _names(self._mixes[slot], key):
                assert not self._users[slot], "an adapter in use was evicted"
                self._unassign(slot)
                self._idle.move_to_end(slot, last=False)

    def take_changes(self) -> tuple[tuple[int, ...], tuple[tuple[int, Mix], ...]]:
        """Return what the device must be told: slots to release, then (slot, mix) to assign."""
        releases: list[int] = []
        assigns: list[tuple[int, Mix]] = []
        for slot in sorted(self._changed):
            mix, told = self._mixes[slot], self._told[slot]
            if mix == told and slot not in self._stale:
                continue
            if told:
                releases.append(slot)
            if mix:
                assigns.append((slot, mix))
            self._told[slot] = mix
        self._changed.clear()
        self._stale.clear()
        return tuple(releases), tuple(assigns)

    def assigned(self) -> dict[int, Mix]:
        """Return the mix of every slot that has one."""
        return {slot: mix for mix, slot in self._slot_of.items()}

    def _unassign(self, slot: int) -> None:
        self._slot_of.pop(self._mixes[slot], None)
        self._mixes[slot] = BASE_MIX
        self._changed.add(slot)


def _names(mix: Mix, key: AdapterKey) -> bool:
    return any(other == key for other, _ in mix)
