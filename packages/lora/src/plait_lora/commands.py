"""What the adapter store tells the device to do: frozen plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plait_lora.identity import AdapterKey, Mix


@dataclass(frozen=True)
class LoadCommand:
    """Copy an adapter from the host into chunks of the arena.

    Attributes
    ----------
    key : AdapterKey
    chunks : tuple[int, ...]
        First chunk of every run, in the order of the ``runs`` the adapter was registered with.
    """

    key: AdapterKey
    chunks: tuple[int, ...]


@dataclass(frozen=True)
class StoreCommands:
    """Commands of one step. They are executed in the order of the fields.

    A load may use chunks, and an assignment a slot, that an earlier field of the same commands
    gives up.

    Attributes
    ----------
    releases : tuple[int, ...]
        Slots to empty; one may be empty already.
    evictions : tuple[AdapterKey, ...]
        Adapters to forget; no slot names them any more, and one may never have arrived.
    loads : tuple[LoadCommand, ...]
        Adapters to copy. Each must be reported with ``AdapterStore.loaded`` when it is done.
    assigns : tuple[tuple[int, Mix], ...]
        Empty slots and the mixes they get.
    reset : bool
        Before anything else, forget all adapters and empty all slots: an earlier step broke, and
        nobody knows how far the device came.
    """

    releases: tuple[int, ...] = ()
    evictions: tuple[AdapterKey, ...] = ()
    loads: tuple[LoadCommand, ...] = ()
    assigns: tuple[tuple[int, Mix], ...] = ()
    reset: bool = False

    def __bool__(self) -> bool:
        return bool(self.reset or self.releases or self.evictions or self.loads or self.assigns)
