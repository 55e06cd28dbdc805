"""Lease: the right to run a mix, and the states of the adapters it names."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plait_lora.identity import AdapterKey, Mix


class AdapterState(enum.Enum):
    """Where an adapter is."""

    HOST = "host"
    LOADING = "loading"
    READY = "ready"


@dataclass(eq=False)
class Entry:
    """What the store knows of one adapter."""

    key: AdapterKey
    runs: tuple[int, ...]
    state: AdapterState = AdapterState.HOST
    chunks: tuple[int, ...] = ()
    in_flight: bool = False  # its load has been commanded and not yet reported
    leases: int = 0
    pinned: bool = False

    @property
    def resident(self) -> bool:
        return self.state is not AdapterState.HOST

    @property
    def movable(self) -> bool:
        """Whether its chunks may be taken away.

        An adapter in flight may not: if it were loaded a second time, the report of the first
        load would be taken for that of the second.
        """
        return self.resident and not (self.leases or self.pinned or self.in_flight)


@dataclass(frozen=True, eq=False)
class Lease:
    """The right to run one mix: while it is held, neither slot nor adapters go away.

    Attributes
    ----------
    slot : int
        Slot of the mix.
    mix : Mix
    entries : tuple[Entry, ...]
        The store's own record of the adapters.
    """

    slot: int
    mix: Mix
    entries: tuple[Entry, ...]

    @property
    def ready(self) -> bool:
        """Whether every adapter of the mix has arrived on the device."""
        return all(entry.state is AdapterState.READY for entry in self.entries)
