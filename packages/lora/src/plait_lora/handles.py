"""Handles: which content every id names, and as of which state of its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait_kernels.errors import AdapterError
from plait_lora.shown import shown

if TYPE_CHECKING:
    from plait_lora.files import AdapterStat
    from plait_lora.identity import AdapterKey
    from plait_lora.request import LoRARequest


@dataclass(frozen=True)
class Handle:
    """An id at its last use.

    Attributes
    ----------
    request : LoRARequest
    stat : AdapterStat
        Of the files whose content ``key`` is.
    key : AdapterKey
    """

    request: LoRARequest
    stat: AdapterStat
    key: AdapterKey


class Handles:
    """The handles by id, and the pins."""

    def __init__(self) -> None:
        self._by_id: dict[int, Handle] = {}
        self._ids: dict[AdapterKey, set[int]] = {}
        self._pinned: set[int] = set()

    def ids(self) -> set[int]:
        """Return every id."""
        return set(self._by_id)

    def get(self, adapter_id: int) -> Handle | None:
        """Return the handle of an id, None if it is not known."""
        return self._by_id.get(adapter_id)

    def candidates(self, request: LoRARequest) -> list[Handle]:
        """Return the handles whose content the request may name."""
        own = self._by_id.get(request.adapter_id)
        if own is not None and not request.load_inplace:
            return [own]
        return list(self._by_id.values())

    def check_same(self, request: LoRARequest, key: AdapterKey, where: str) -> None:
        """Raise AdapterError if the id names other content than ``key`` and must go on so."""
        before = self._by_id.get(request.adapter_id)
        if before is None or before.key == key or request.load_inplace:
            return
        msg = (
            f"{where}: the id {request.adapter_id} names the adapter {shown(before.request.name)} "
            "of "
            f"{shown(before.request.path)}, and the content is now another ({before.key} before, "
            f"{key} "
            "now). Use a new id, remove the old one first, or pass load_inplace=True."
        )
        raise AdapterError(msg)

    def is_named(self, key: AdapterKey) -> bool:
        """Whether an id names ``key``."""
        return key in self._ids

    def bind(self, handle: Handle) -> AdapterKey | None:
        """Let the handle's id name its key; return the key it named before, if that is another."""
        adapter_id = handle.request.adapter_id
        before = self._by_id.get(adapter_id)
        if before is not None:
            self._unname(adapter_id, before.key)
        self._by_id[adapter_id] = handle
        self._ids.setdefault(handle.key, set()).add(adapter_id)
        return before.key if before is not None and before.key != handle.key else None

    def remove(self, adapter_id: int) -> Handle | None:
        """Forget an id and its pin; return its handle, None if it was not known."""
        handle = self._by_id.pop(adapter_id, None)
        self._pinned.discard(adapter_id)
        if handle is not None:
            self._unname(adapter_id, handle.key)
        return handle

    def pin(self, adapter_id: int) -> bool:
        """Pin an id; return whether it is known."""
        if adapter_id not in self._by_id:
            return False
        self._pinned.add(adapter_id)
        return True

    def pinned(self) -> set[int]:
        """Return the ids that are pinned."""
        return set(self._pinned)

    def pinned_keys(self, *, besides: int | None = None) -> set[AdapterKey]:
        """Return the keys that pinned ids name, the id ``besides`` left out."""
        return {self._by_id[i].key for i in self._pinned if i != besides}

    def mend(self) -> None:
        """Work out again what follows from the handles, after a change that was broken off."""
        ids: dict[AdapterKey, set[int]] = {}
        for adapter_id, handle in self._by_id.items():
            ids.setdefault(handle.key, set()).add(adapter_id)
        self._ids = ids
        self._pinned &= self._by_id.keys()

    def _unname(self, adapter_id: int, key: AdapterKey) -> None:
        self._ids[key].remove(adapter_id)
        if not self._ids[key]:
            del self._ids[key]
