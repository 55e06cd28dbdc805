"""The device side of adapters: executes the store's commands and describes tokens to kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from plait.messages import ErrorInfo

if TYPE_CHECKING:
    from plait.plan import FailedLoad, Int32
    from plait_kernels.lora_types import LoraBatch
    from plait_lora.adapter import Adapter
    from plait_lora.arena import LoraArena
    from plait_lora.commands import LoadCommand, StoreCommands
    from plait_lora.identity import AdapterKey


class AdapterSource(Protocol):
    """Where the weights of an adapter are read from: the host tier."""

    def get(self, key: AdapterKey) -> Adapter:
        """Return the adapter of that key."""


class AdapterDevice:
    """Carries out what the store decides. What is on the device, the arena alone knows.

    Parameters
    ----------
    arena : LoraArena
    source : AdapterSource
    """

    def __init__(self, arena: LoraArena, source: AdapterSource) -> None:
        self.arena = arena
        self._source = source

    def execute(self, commands: StoreCommands) -> tuple[FailedLoad, ...]:
        """Carry out the store's commands; return the loads that could not be done."""
        if commands.reset:
            self.arena.reset()
        for slot in commands.releases:
            self.arena.release(slot)
        for key in commands.evictions:
            self.arena.evict(key)
        failed = {load.key: why for load in commands.loads if (why := self._load(load))}
        for slot, mix in commands.assigns:
            # Nobody runs a mix whose load failed.
            if not any(key in failed for key, _ in mix):
                self.arena.assign(slot, mix)
        return tuple(failed.items())

    def _load(self, load: LoadCommand) -> ErrorInfo | None:
        try:
            adapter = self._source.get(load.key)
            self.arena.load(load.key, adapter.layout, load.chunks, adapter.modules)
        except Exception as error:  # whatever its weights did: its own requests hear of it
            return ErrorInfo.of_fault(error, f"adapter {load.key} cannot be loaded")
        return None

    def site_groups(self, slots: Int32) -> frozenset[str]:
        """Return the site groups that the adapters in these slots target; −1 = none."""
        return self.arena.site_groups(set(slots.tolist()) - {-1})

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
