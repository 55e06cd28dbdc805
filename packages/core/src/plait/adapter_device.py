"""The device side of adapters: executes the store's commands and describes tokens to kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from plait.plan import Int32
    from plait_kernels.lora_types import LoraBatch
    from plait_lora.adapter import Adapter
    from plait_lora.arena import LoraArena
    from plait_lora.commands import StoreCommands
    from plait_lora.identity import AdapterKey, Mix


class AdapterSource(Protocol):
    """Where the weights of an adapter are read from: the host tier."""

    def get(self, key: AdapterKey) -> Adapter:
        """Return the adapter of that key."""


class AdapterDevice:
    """Owns the arena of adapter tiles.

    Parameters
    ----------
    arena : LoraArena
    source : AdapterSource
    """

    def __init__(self, arena: LoraArena, source: AdapterSource) -> None:
        self.arena = arena
        self._source = source
        self._groups: dict[AdapterKey, frozenset[str]] = {}
        self._slots: dict[int, Mix] = {}

    def execute(self, commands: StoreCommands) -> tuple[AdapterKey, ...]:
        """Carry out the store's commands; return the adapters whose load has finished.

        Commands that were broken off may be given again.
        """
        for slot in commands.releases:
            self._release(slot)
        for key in commands.evictions:
            self._evict(key)
        for load in commands.loads:
            adapter = self._source.get(load.key)
            self._evict(load.key)
            self.arena.load(load.key, adapter.layout, load.chunks, adapter.modules)
            self._groups[load.key] = adapter.groups
        for slot, mix in commands.assigns:
            self._release(slot)
            self.arena.assign(slot, mix)
            self._slots[slot] = mix
        return tuple(load.key for load in commands.loads)

    def _release(self, slot: int) -> None:
        if self._slots.pop(slot, None) is not None:
            self.arena.release(slot)

    def _evict(self, key: AdapterKey) -> None:
        if self._groups.pop(key, None) is not None:
            self.arena.evict(key)

    def site_groups(self, slots: Int32) -> frozenset[str]:
        """Return the site groups that the adapters in these slots target; −1 = none."""
        keys = {key for slot in set(slots.tolist()) - {-1} for key, _ in self._slots[slot]}
        return frozenset[str]().union(*(self._groups[key] for key in keys))

    def batch(self, slots: Int32) -> tuple[LoraBatch | None, frozenset[str]]:
        """Describe tokens to kernels.

        Parameters
        ----------
        slots : ndarray, int32 [tokens]
            Slot of each token's mix, −1 = base model only.

        Returns
        -------
        LoraBatch | None
            None when no token runs an adapter: then no kernel sees one.
        frozenset[str]
            Site groups that the adapters of these tokens target.
        """
        groups = self.site_groups(slots)
        return (self.arena.batch(slots) if groups else None), groups
