"""AdapterReads: adapter files that are being read, while steps go on."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from plait.messages import ErrorInfo
from plait_kernels.errors import AdapterError, PlaitError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable
    from concurrent.futures import Future

    from plait_lora.reader import ReadAdapter
    from plait_lora.request import LoRARequest

_THREADS = 4
"""Reads at the same time: a disk and a hash of its bytes are about as fast as each other."""


def adapter_error(error: BaseException) -> PlaitError:
    """Return an error of plait for whatever the files of an adapter raised."""
    return ErrorInfo.of_fault(error, "the adapter cannot be read", AdapterError).to_error()


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
            That of the read, or for whatever else came of the files.
        """
        if not self._under_way[waiting].done():
            return None
        read = self._under_way.pop(waiting)
        error = read.exception()
        if error is not None:
            raise adapter_error(error) from error
        return read.result()

    def drop(self, waiting: Hashable) -> None:
        """Forget a read, if there is one; one that has not begun never will."""
        read = self._under_way.pop(waiting, None)
        if read is not None:
            read.cancel()

    def keep_only(self, waiting: Collection[Hashable]) -> None:
        """Forget the reads that others wait for."""
        for other in [one for one in self._under_way if one not in waiting]:
            self.drop(other)

    def waiting(self) -> list[Hashable]:
        """Return who waits for a read."""
        return list(self._under_way)

    def wait(self, seconds: float) -> None:
        """Wait until a read is done, if one is under way, but no longer than ``seconds``."""
        if self._under_way:
            wait(self._under_way.values(), timeout=seconds, return_when=FIRST_COMPLETED)
