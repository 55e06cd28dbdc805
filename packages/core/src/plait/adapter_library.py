"""The adapters of an engine: their files and host copies, and their place on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait.adapter_reads import AdapterReads, adapter_error
from plait_kernels.arguments import shown
from plait_kernels.errors import AdapterError, PlaitError

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Mapping

    from plait_lora.catalog import AdapterCatalog
    from plait_lora.identity import AdapterKey, Mix
    from plait_lora.request import LoRARequest
    from plait_lora.store import AdapterStore


class AdapterLibrary:
    """Turns handles into mixes, and holds the host copies that unfinished requests need.

    Parameters
    ----------
    catalog : AdapterCatalog
        Files and host tier.
    store : AdapterStore
        Bookkeeping of the device tier.
    """

    def __init__(self, catalog: AdapterCatalog, store: AdapterStore) -> None:
        self.catalog = catalog
        self.store = store
        self._reads = AdapterReads(catalog.read)
        self._held: dict[str, AdapterKey] = {}
        self._pinned: dict[int, AdapterKey] = {}
        self._leaving: set[AdapterKey] = set()

    def acquire(self, request_id: str, handle: LoRARequest) -> Mix | None:
        """Resolve a handle and keep its host copy until ``release(request_id)``.

        Files that are new or have changed are read in a thread; nobody waits for it here.

        Returns
        -------
        Mix | None
            None: its files are being read, or host memory for adapters is full of adapters in use;
            try again later.

        Raises
        ------
        AdapterError
            If the adapter cannot be honoured exactly.
        """
        key = self._resolve_beside(request_id, handle)
        if key is None:
            return None
        self.catalog.hold(key)
        self._held[request_id] = key
        return ((key, 1.0),)

    def release(self, request_id: str) -> None:
        """Let go of what ``acquire`` kept or reads; nothing happens if it kept nothing."""
        self._reads.drop(request_id)
        key = self._held.pop(request_id, None)
        if key is not None:
            self.catalog.drop(key)

    def mend(self, held: Mapping[str, AdapterKey], resolving: Collection[str]) -> None:
        """Make the books whole after a call that broke off; the store has been reset before.

        Parameters
        ----------
        held : Mapping[str, AdapterKey]
            What each request that is resolved and unfinished runs.
        resolving : Collection[str]
            Requests that may have a read under way.
        """
        self._held = dict(held)
        # Beside requests, ``begin_add`` waits for reads, as handles.
        adds = {waiting for waiting in self._reads.waiting() if not isinstance(waiting, str)}
        self._reads.keep_only(adds | set(resolving))
        self.catalog.mend(held.values())
        keys = {i: self.catalog.key_of(i) for i in self.catalog.pinned()}
        self._pinned = {i: key for i, key in keys.items() if key is not None}
        self.store.pin_only(self._pinned.values())
        self._leaving = self.store.keys()
        self.tidy()

    def wait(self, seconds: float) -> None:
        """Wait until a read is done, if one is under way, but no longer than ``seconds``."""
        self._reads.wait(seconds)

    def add(self, handle: LoRARequest) -> bool:
        """Read an adapter into host memory under its id.

        Raises
        ------
        AdapterError
            If it cannot be honoured, or host memory is full of adapters in use.
        """
        before = self.catalog.key_of(handle.lora_int_id)
        try:
            key = self.catalog.resolve(handle)
        except PlaitError:
            raise
        except Exception as error:  # whatever files that anybody may have written raise
            raise adapter_error(error) from error
        if key is None:
            raise _no_room(handle)
        self._note(handle, before, key)
        return True

    def begin_add(self, handle: LoRARequest) -> bool:
        """Do as ``add`` while a thread reads the files; return whether it is done.

        Until it is, call it again.

        Raises
        ------
        AdapterError
            As ``add`` says.
        """
        if self._resolve_beside(handle, handle) is not None:
            return True
        if handle not in self._reads:
            raise _no_room(handle)
        return False

    def cancel_add(self, handle: LoRARequest) -> None:
        """Give up what ``begin_add`` began."""
        self._reads.drop(handle)

    def remove(self, lora_int_id: int) -> bool:
        """Forget an id; return whether it was known.

        Requests that run its adapter finish undisturbed. Host and device memory are given back
        when the last of them has, unless another id names the same content.
        """
        key = self.catalog.key_of(lora_int_id)
        known = self.catalog.remove(lora_int_id)
        if key is not None:
            self._unpin(lora_int_id)
            self._leaving.add(key)
            self.tidy()
        return known

    def pin(self, lora_int_id: int) -> bool:
        """Keep an adapter in host and device memory once it is there.

        Raises
        ------
        AdapterError
            If the id is not known.
        """
        key = self.catalog.key_of(lora_int_id)
        if key is None:
            known = sorted(self.ids())
            text = (
                f"no adapter has the id {shown(lora_int_id)}, known are {shown(known)}; add it "
                "with add_lora"
            )
            raise AdapterError(text)
        self.catalog.pin(lora_int_id)
        self._pin(lora_int_id, key)
        return True

    def ids(self) -> set[int]:
        """Return the ids that are known."""
        return set(self.catalog.ids())

    def tidy(self) -> None:
        """Give up the memory of removed and replaced adapters that nobody runs any more."""
        if not self._leaving:
            return
        named = {self.catalog.key_of(lora_int_id) for lora_int_id in self.catalog.ids()}
        self._leaving -= named
        held = set(self._held.values())
        for key in self._leaving - held:
            if self.store.forget(key):
                self._leaving.discard(key)

    def _resolve_beside(self, waiting: Hashable, handle: LoRARequest) -> AdapterKey | None:
        """Return the key of a handle's adapter; None while its files are read, or wait for room."""
        before = self.catalog.key_of(handle.lora_int_id)
        key = self.catalog.lookup(handle)
        if key is not None:
            self._reads.drop(waiting)
        elif waiting in self._reads:
            read = self._reads.take(waiting)
            if read is None:
                return None
            # Files that changed after they were read, and before now, are read again.
            key = self.catalog.admit(read) if self.catalog.is_current(read) else None
        if key is not None:
            self._note(handle, before, key)
        elif self.catalog.may_read(handle, len(self._reads)):
            self._reads.start(waiting, handle)
        return key

    def _note(self, handle: LoRARequest, before: AdapterKey | None, key: AdapterKey) -> None:
        """Tell the store of an adapter, and of the one that its id named before."""
        self.store.register(key, self.catalog.get(key).layout.runs)
        if before is not None and before != key:
            self._leaving.add(before)
            self._unpin(handle.lora_int_id)
        if handle.lora_int_id in self.catalog.pinned():
            self._pin(handle.lora_int_id, key)

    def _pin(self, lora_int_id: int, key: AdapterKey) -> None:
        # One that the store does not know yet is pinned when it comes.
        if self.store.is_registered(key):
            self.store.pin(key)
            self._pinned[lora_int_id] = key

    def _unpin(self, lora_int_id: int) -> None:
        key = self._pinned.pop(lora_int_id, None)
        if key is not None and key not in self._pinned.values():
            self.store.unpin(key)


def _no_room(handle: LoRARequest) -> AdapterError:
    text = (
        f"adapter {handle.lora_name!r} cannot be added: all max_cpu_loras adapters in host "
        "memory are in use; try again later or raise max_cpu_loras"
    )
    return AdapterError(text)
