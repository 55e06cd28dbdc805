"""AdapterReads: adapter files that are being read, while steps go on."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from concurrent.futures import Future

    from plait_lora.reader import ReadAdapter
    from plait_lora.request import LoRARequest

_THREADS = 4
"""Reads at the same time: a disk and a hash of its bytes are about as fast as each other."""


class AdapterReads:
    """Reads in threads of their own, each known by who waits for it.

    Its methods are for one thread.

    Parameters
    ----------
    read : Callable[[LoRARequest], ReadAdapter]
        May run in any thread.
    """

    def __init__(self, read: Callable[[LoRARequest], ReadAdapter]) -> None:
        self._read = read
        self._threads: ThreadPoolExecutor | None = None
        self._under_way: dict[Hashable, Future[ReadAdapter]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, waiting: Hashable) -> bool:
        return waiting in self._under_way

    def start(self, waiting: Hashable, handle: LoRARequest) -> None:
        """Begin to read the files of a handle."""
        assert waiting not in self._under_way, "who waits for a read starts no other"
        if self._threads is None:
            # Not before: most engines never read an adapter.
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="plait-adapters")
        self._under_way[waiting] = self._threads.submit(self._read, handle)

    def take(self, waiting: Hashable) -> ReadAdapter | None:
        """Return what a read gave, once; None while it is under way.

        Raises
        ------
        AdapterError
            That of the read.
        """
        if not self._under_way[waiting].done():
            return None
        return self._under_way.pop(waiting).result()

    def drop(self, waiting: Hashable) -> None:
        """Forget a read, if there is one; one that has not begun never will."""
        read = self._under_way.pop(waiting, None)
        if read is not None:
            read.cancel()

    def wait(self, seconds: float) -> None:
        """Wait until a read is done, if one is under way, but no longer than ``seconds``."""
        if self._under_way:
            wait(self._under_way.values(), timeout=seconds, return_when=FIRST_COMPLETED)
