"""HostTier: adapters in host memory, held by count and otherwise evicted, longest unused first."""

from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

from plait_kernels.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

    from plait_lora.adapter import Adapter
    from plait_lora.identity import AdapterKey


class HostTier:
    """Adapters by key, at most ``capacity`` of them.

    Parameters
    ----------
    capacity : int | None
        None: no limit.
    """

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self._adapters: OrderedDict[AdapterKey, Adapter] = OrderedDict()  # longest unused first
        self._holds: dict[AdapterKey, int] = {}

    def __contains__(self, key: AdapterKey) -> bool:
        return key in self._adapters

    def __len__(self) -> int:
        return len(self._adapters)

    @property
    def nbytes(self) -> int:
        """Bytes of all adapters."""
        return sum(adapter.nbytes for adapter in self._adapters.values())

    def keys(self) -> tuple[AdapterKey, ...]:
        """Return the keys, longest unused first."""
        return tuple(self._adapters)

    def get(self, key: AdapterKey) -> Adapter:
        """Return an adapter, which counts as a use; AdapterError if it is not here."""
        if key not in self._adapters:
            msg = (
                f"adapter {key} is not in host memory (it was evicted or removed); resolve its "
                "LoRARequest again and hold the key while it is needed"
            )
            raise AdapterError(msg)
        # In one go: an interrupt must not find the adapter taken out and not put back.
        self._adapters.move_to_end(key)
        return self._adapters[key]

    def is_held(self, key: AdapterKey) -> bool:
        """Whether somebody holds the adapter."""
        return key in self._holds

    def hold(self, key: AdapterKey) -> None:
        """Add one hold; AdapterError if the adapter is not here."""
        self.get(key)
        self._holds[key] = self._holds.get(key, 0) + 1

    def drop(self, key: AdapterKey) -> None:
        """Take one hold back."""
        assert self._holds.get(key, 0) > 0, "a hold is dropped once"
        self._holds[key] -= 1
        if not self._holds[key]:
            del self._holds[key]

    def mend_holds(self, keys: Iterable[AdapterKey]) -> None:
        """Set the holds to one for each of ``keys``, which may repeat, and none beside them."""
        self._holds = dict(Counter(keys))

    def has_room(self, keep: AbstractSet[AdapterKey], more: int = 1) -> bool:
        """Whether ``more`` adapters fit, perhaps for some that are neither held nor in ``keep``."""
        if self.capacity is None:
            return True
        free = self.capacity - len(self._adapters)
        return sum(1 for _ in islice(self._victims(keep), max(0, more - free))) + free >= more

    def put(self, adapter: Adapter, keep: AbstractSet[AdapterKey]) -> None:
        """Add an adapter, evicting another where ``has_room`` counted on it."""
        assert adapter.key not in self._adapters
        while self.capacity is not None and len(self._adapters) >= self.capacity:
            victim = next(self._victims(keep), None)
            assert victim is not None, "has_room is asked first"
            del self._adapters[victim]
        self._adapters[adapter.key] = adapter

    def remove(self, key: AdapterKey) -> None:
        """Free an adapter that nobody holds."""
        assert not self.is_held(key)
        self._adapters.pop(key, None)

    def _victims(self, keep: AbstractSet[AdapterKey]) -> Iterator[AdapterKey]:
        return (key for key in self._adapters if key not in self._holds and key not in keep)
