"""AdapterReads: adapter files that are being read, while steps go on."""

from __future__ import annotations

import os
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait.messages import ErrorInfo
from plait_kernels.errors import AdapterError, PlaitError
from plait_lora.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable
    from concurrent.futures import Future

    from plait_lora.reader import ReadAdapter
    from plait_lora.request import LoRARequest

_THREADS = 4
"""Reads at the same time: a disk and a hash of its bytes are about as fast as each other."""


@dataclass(frozen=True, eq=False)
class _Read:
    handle: LoRARequest
    result: Future[ReadAdapter]


def adapter_error(error: BaseException) -> PlaitError:
    """Return an error of plait for whatever the files of an adapter raised."""
    return ErrorInfo.of_fault(error, "the adapter cannot be read", AdapterError).to_error()


class AdapterReads:
    """Reads in threads of their own, each known by who waits for it.

    Its methods are for one thread. A process that was forked while files were read begins those
    reads again: threads do not cross a fork.

    Parameters
    ----------
    read : Callable[[LoRARequest], ReadAdapter]
        May run in any thread.
    """

    def __init__(self, read: Callable[[LoRARequest], ReadAdapter]) -> None:
        self._read = read
        self._threads: ThreadPoolExecutor | None = None
        self._process = os.getpid()
        self._under_way: dict[Hashable, _Read] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def __contains__(self, waiting: Hashable) -> bool:
        return waiting in self._under_way

    def start(self, waiting: Hashable, handle: LoRARequest) -> None:
        """Begin to read the files of a handle.

        Raises
        ------
        AdapterError
            If no thread can be started.
        """
        assert waiting not in self._under_way, "who waits for a read starts no other"
        self._begin_again_after_fork()
        self._under_way[waiting] = self._submit(handle)

    def take(self, waiting: Hashable) -> ReadAdapter | None:
        """Return what a read gave, once; None while it is under way.

        Raises
        ------
        AdapterError
            That of the read, or for whatever else came of the files.
        """
        self._begin_again_after_fork()
        if not self._under_way[waiting].result.done():
            return None
        read = self._under_way.pop(waiting).result
        error = read.exception()
        if error is not None:
            raise adapter_error(error) from error
        return read.result()

    def drop(self, waiting: Hashable) -> None:
        """Forget a read, if there is one; one that has not begun never will."""
        read = self._under_way.pop(waiting, None)
        if read is not None and self._process == os.getpid():
            read.result.cancel()

    def keep_only(self, waiting: Collection[Hashable]) -> None:
        """Forget the reads that others wait for."""
        for other in [one for one in self._under_way if one not in waiting]:
            self.drop(other)

    def waiting(self) -> list[Hashable]:
        """Return who waits for a read."""
        return list(self._under_way)

    def wait(self, seconds: float) -> None:
        """Wait until a read is done, if one is under way, but no longer than ``seconds``."""
        self._begin_again_after_fork()
        if self._under_way:
            results = [read.result for read in self._under_way.values()]
            wait(results, timeout=seconds, return_when=FIRST_COMPLETED)

    def _submit(self, handle: LoRARequest) -> _Read:
        if self._threads is None:
            # Not before: most engines never read an adapter.
            self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="plait-adapters")
        try:
            return _Read(handle, self._threads.submit(self._read, handle))
        except RuntimeError as error:
            # What was put in the queue may still be read by a thread that is there; nobody asks.
            text = (
                f"adapter {shown(handle.lora_name)} cannot be read now: no thread could be started "
                f"for it ({error}). Let this process have more threads, or try again later"
            )
            raise AdapterError(text) from error

    def _begin_again_after_fork(self) -> None:
        if self._process == os.getpid():
            return
        # The parent's threads are not here, and a lock of theirs may be held for ever: nothing of
        # theirs is touched.
        self._process, self._threads = os.getpid(), None
        for waiting, read in list(self._under_way.items()):
            self._under_way[waiting] = self._submit(read.handle)
