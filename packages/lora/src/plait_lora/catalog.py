"""AdapterCatalog: from handles to adapters in host memory."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plait_kernels.errors import AdapterError, InputError, PlaitError
from plait_kernels.lora_types import TILE_ROWS
from plait_lora.adapter import Adapter, HostFormat
from plait_lora.adapter_room import AdapterRoom
from plait_lora.files import AdapterStat, stat_adapter
from plait_lora.handles import Handle, Handles
from plait_lora.host_tier import HostTier
from plait_lora.identity import AdapterKey, fresh_key
from plait_lora.locations import Locate, Locations
from plait_lora.reader import AdapterReader, ReadAdapter
from plait_lora.shown import shortened, shown
from plait_lora.site_index import SiteIndex
from plait_lora.target_modules import check_target_modules
from plait_lora.tensor_checks import BaseWeight, Origin, Sites

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import torch

    from plait_kernels.sites import LoraSite
    from plait_lora.request import LoRARequest

SERVED_GROUPS = ("qkv", "o", "gate_up", "down", "head")
"""Site groups at which adapters are served unless the caller says otherwise."""


class AdapterCatalog:
    """The host tier: resolves handles, reads files once, and keeps checked adapters.

    The files of a handle are looked at (not read) on every use; they are read when they are new
    or have changed, or when their adapter was evicted. A key is made of the bytes of that one
    read, so it never names other bytes than those served. Handles whose files have one content
    share one copy. After an error everything is as it was.

    The methods are for one thread, except that ``read`` may run in any.

    Parameters
    ----------
    sites : Sequence[LoraSite]
        Of the model.
    dtype : torch.dtype
        Of the arena: adapters are kept in it.
    chunk_bytes : int
        Of the arena.
    max_lora_rank : int, optional
        Adapters with a module of higher rank are refused. None: no limit.
    max_cpu_loras : int, optional
        The most adapters in host memory. None: no limit.
    served_groups : Iterable[str]
        Site groups at which adapters are served; others are refused by name.
    tile_rows : int
        Of the arena.
    target_modules : Collection[str], optional
        Names of modules (``"q_proj"``) that adapters act on; what an adapter has for others is left
        out. None: all.
    base_weight : Callable[[LoraSite], Tensor | None], optional
        The model's own weight at an ``embed`` or ``head`` site, [vocabulary, hidden]. PEFT adds a
        copy of it to adapters that target the head; with this it is compared. Without, the copy
        is taken to be unchanged if its shape is right.
    locate : Locate, optional
        Finds the snapshot of a hub id, where no such path is there. An id goes on meaning what its
        first use found until ``load_inplace`` asks again. None: local paths only.
    num_chunks : int, optional
        Of the arena: weights that cannot fit in it are not read. None: the limit is the machine's
        memory.
    origin : Callable[[LoraSite, Tensor], bool], optional
        Of a quantised model: whether its weight at an ``embed`` or ``head`` site was quantised from
        a tensor, which is then as good a copy as an equal one.

    Raises
    ------
    InputError
        If a limit is not an integer of at least 1.
    """

    def __init__(
        self,
        sites: Sequence[LoraSite],
        *,
        dtype: torch.dtype,
        chunk_bytes: int,
        max_lora_rank: int | None = None,
        max_cpu_loras: int | None = None,
        served_groups: Iterable[str] = SERVED_GROUPS,
        tile_rows: int = TILE_ROWS,
        target_modules: Collection[str] | None = None,
        base_weight: BaseWeight | None = None,
        locate: Locate | None = None,
        num_chunks: int | None = None,
        origin: Origin | None = None,
    ) -> None:
        _check_cap("max_lora_rank", max_lora_rank)
        _check_cap("max_cpu_loras", max_cpu_loras)
        self._reader = AdapterReader(
            Sites(SiteIndex(sites), frozenset(served_groups), base_weight, origin),
            HostFormat(dtype, chunk_bytes, tile_rows),
            max_lora_rank,
            None if target_modules is None else check_target_modules(target_modules, sites),
            AdapterRoom(chunk_bytes, dtype.itemsize, num_chunks),
        )
        self._tier = HostTier(max_cpu_loras)
        self._handles = Handles()
        self._locations = Locations(locate)
        self._in_memory: set[AdapterKey] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of host memory that all adapters take."""
        return self._tier.nbytes

    def ids(self) -> set[int]:
        """Return the ids that name an adapter."""
        return self._handles.ids()

    def resident(self) -> tuple[AdapterKey, ...]:
        """Return the adapters in host memory, longest unused first."""
        return self._tier.keys()

    def resolve(self, request: LoRARequest) -> AdapterKey | None:
        """Return the key of a handle's adapter, which is then in host memory.

        Hold the key before resolving another handle, or it may be evicted.

        Parameters
        ----------
        request : LoRARequest

        Returns
        -------
        AdapterKey | None
            None, with nothing changed: host memory is full of adapters that are held
            (``max_cpu_loras``); wait until one is dropped.

        Raises
        ------
        AdapterError
            If the files are missing, damaged or cannot be honoured exactly; if the id named other
            content before and ``load_inplace`` is not set; if pins fill host memory.
        """
        key = self.lookup(request)
        if key is not None:
            return key
        return self.admit(self.read(request)) if self.may_read(request) else None

    def lookup(self, request: LoRARequest) -> AdapterKey | None:
        """Return the key if the files are as an adapter in host memory was read; read nothing."""
        directory = self._directory(request)
        if directory is None:
            return None
        stat = stat_adapter(directory, _where(request))
        for handle in self._handles.candidates(request):
            if handle.stat == stat and handle.key in self._tier:
                self._tier.get(handle.key)
                self._bind(request, stat, handle.key)
                return handle.key
        return None

    def may_read(self, request: LoRARequest, under_way: int = 0) -> bool:
        """Say whether a handle's files are worth reading now; if not, wait.

        Content that an id in memory names is read even without room: it is most likely the same,
        and if it is not, this is the time to say so. But who waits for room must not ask a hub at
        every step.

        Parameters
        ----------
        request : LoRARequest
        under_way : int
            Adapters that are being read and not admitted yet.

        Raises
        ------
        AdapterError
            If pins fill host memory.
        """
        known = self._handles.get(request.adapter_id)
        asks_hub = self._directory(request) is None
        in_memory = known is not None and known.key in self._tier
        return (in_memory and not asks_hub) or self._has_room(request, 1 + under_way)

    def read(self, request: LoRARequest) -> ReadAdapter:
        """Read and check a handle's files. Changes nothing; may run in any thread.

        Raises
        ------
        AdapterError
            If they cannot be honoured exactly, and also of whatever else happens on the way: it is
            the request's own.
        OutOfMemoryError
            If the adapter does not fit in the arena although nothing else were there.
        """
        where, again = _where(request), request.load_inplace
        try:
            directory = self._locations.find(request.path, where, again=again)
            read = self._reader.read(replace(request, lora_path=directory), where)
        except PlaitError:
            raise
        except Exception as error:  # anything that a stranger's files may bring about
            reason = shortened(f"{type(error).__name__}: {error}")
            msg = f"{where}: it could not be read ({reason}). Check the files of the adapter."
            raise AdapterError(msg) from error
        return replace(read, request=request)

    def is_current(self, read: ReadAdapter) -> bool:
        """Look at the files again and say whether they are those that were read.

        Raises
        ------
        AdapterError
            If they are not there any more.
        """
        directory = os.path.dirname(read.stat.weights.path)
        return stat_adapter(directory, _where(read.request)) == read.stat

    def admit(self, read: ReadAdapter) -> AdapterKey | None:
        """Take in what ``read`` returned; answers and errors are those of ``resolve``."""
        adapter = read.adapter
        self._handles.check_same(read.request, adapter.key, _where(read.request))
        if adapter.key not in self._tier:
            if not self._has_room(read.request):
                return None
            self._tier.put(adapter, self._kept(read.request.adapter_id))
        self._bind(read.request, read.stat, adapter.key)
        return adapter.key

    def add_tensors(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, torch.Tensor],
        *,
        name: str = "adapter in memory",
    ) -> AdapterKey:
        """Take in an adapter that is in memory; it stays until ``discard``.

        Parameters
        ----------
        config : Mapping[str, Any]
            As ``LoraConfig.to_dict()`` returns it.
        tensors : Mapping[str, Tensor]
            As ``get_peft_model_state_dict`` returns them. They are copied.
        name : str
            For messages.

        Returns
        -------
        AdapterKey
            A fresh one, also for equal tensors.

        Raises
        ------
        AdapterError
            If it cannot be honoured exactly, or host memory is full of adapters that are held.
        """
        adapter = self._reader.build(config, tensors, f"adapter {shown(name)}", fresh_key())
        if not self._tier.has_room(self._kept()):
            msg = (
                f"adapter {shown(name)}: host memory has {len(self._tier)} adapters, all of them "
                "held, "
                f"and max_cpu_loras is {self._tier.capacity}; raise it or let requests finish."
            )
            raise AdapterError(msg)
        self._tier.put(adapter, self._kept())
        self._in_memory.add(adapter.key)
        return adapter.key

    def discard(self, key: AdapterKey) -> bool:
        """Give up an adapter of ``add_tensors``: it is freed as soon as nobody holds it."""
        known = key in self._in_memory
        self._in_memory.discard(key)
        self._free_if_unnamed(key)
        return known

    def get(self, key: AdapterKey) -> Adapter:
        """Return an adapter; AdapterError if it is not in host memory."""
        return self._tier.get(key)

    def hold(self, key: AdapterKey) -> None:
        """Keep an adapter in host memory until it is dropped; AdapterError if it is not there."""
        self._tier.hold(key)

    def drop(self, key: AdapterKey) -> None:
        """Take one ``hold`` back."""
        self._tier.drop(key)
        self._free_if_unnamed(key)

    def mend(self, held: Iterable[AdapterKey]) -> None:
        """Make the books whole after a call that was broken off, wherever that was.

        Parameters
        ----------
        held : Iterable[AdapterKey]
            One for each hold that its owner knows of; there are no others afterwards.
        """
        self._handles.mend()
        self._tier.mend_holds(held)
        for key in self.resident():
            self._free_if_unnamed(key)

    def remove(self, adapter_id: int) -> bool:
        """Forget an id, with its pin; return whether it was known.

        Its adapter is freed as soon as nobody holds it and no other id names it.
        """
        handle = self._handles.remove(adapter_id)
        if handle is None:
            return False
        self._free_if_unnamed(handle.key)
        return True

    def pin(self, adapter_id: int) -> bool:
        """Never evict the adapter of an id until the id is removed; return whether it is known.

        An adapter that is out of host memory at the moment stays from its next ``resolve`` on.
        """
        return self._handles.pin(adapter_id)

    def pinned(self) -> set[int]:
        """Return the ids that are pinned."""
        return self._handles.pinned()

    def key_of(self, adapter_id: int) -> AdapterKey | None:
        """Return the key that an id names, None if the id is not known."""
        handle = self._handles.get(adapter_id)
        return None if handle is None else handle.key

    def _directory(self, request: LoRARequest) -> str | None:
        return self._locations.known(request.path, again=request.load_inplace)

    def _kept(self, replaced: int | None = None) -> set[AdapterKey]:
        return self._handles.pinned_keys(besides=replaced) | self._in_memory

    def _has_room(self, request: LoRARequest, more: int = 1) -> bool:
        kept = self._kept(request.adapter_id)
        if self._tier.has_room(kept, more):
            return True
        resident = set(self._tier.keys())
        if resident <= kept and not self._tier.has_room(kept):
            msg = (
                f"{_where(request)}: host memory holds {len(resident)} adapters, all of them "
                "pinned or handed over in memory, and max_cpu_loras is "
                f"{self._tier.capacity}; raise it or remove adapters."
            )
            raise AdapterError(msg)
        return False

    def _bind(self, request: LoRARequest, stat: AdapterStat, key: AdapterKey) -> None:
        self._locations.keep(request.path, os.path.dirname(stat.weights.path))
        before = self._handles.bind(Handle(request, stat, key))
        if before is not None:
            self._free_if_unnamed(before)

    def _free_if_unnamed(self, key: AdapterKey) -> None:
        named = key in self._in_memory or self._handles.is_named(key)
        if not named and not self._tier.is_held(key):
            self._tier.remove(key)


def _where(request: LoRARequest) -> str:
    return f"adapter {shown(request.name)} (id {shown(request.adapter_id)}, {shown(request.path)})"


def _check_cap(name: str, cap: int | None) -> None:
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        msg = f"{name} is {shown(cap)}; it must be an integer of at least 1, or None: no cap."
        raise InputError(msg)
