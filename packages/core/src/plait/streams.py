"""Streams: the outputs of asynchronous requests on their way from the engine to who waits."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

from plait_kernels.arguments import shown
from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from plait.outputs import RequestOutput

    News: TypeAlias = RequestOutput | BaseException


class Stream:
    """What one request says to the task that waits for it.

    Attributes
    ----------
    request_id : str
        The user's.
    name : str
        The engine's, never used twice: what is said of an earlier request of the same id does not
        come here.
    is_aborted : bool
        Whether it is to end as soon as it is in the engine.
    """

    def __init__(self, request_id: str, name: str) -> None:
        self.request_id = request_id
        self.name = name
        self.is_aborted = False
        self.loop = asyncio.get_running_loop()
        self._news: asyncio.Queue[News] = asyncio.Queue()

    async def next(self) -> RequestOutput:
        """Wait for the next output; raise the error that ends the stream."""
        news = await self._news.get()
        if isinstance(news, BaseException):
            raise news
        if news.error is not None:
            raise news.error
        return news

    def put(self, news: News) -> None:
        """Say something, in the loop's own thread."""
        self._news.put_nowait(news)


class Streams:
    """The streams of an engine. Its methods may be called in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._by_id: dict[str, Stream] = {}
        self._by_name: dict[str, Stream] = {}

    def open(self, request_id: str) -> Stream:
        """Open the stream of a request, in the loop of the task that will wait for it.

        Raises
        ------
        InputError
            The id is in use, or is no str.
        """
        if not isinstance(request_id, str):
            text = f"request_id must be a str, got {shown(request_id)}: write str(…)"
            raise InputError(text)
        with self._lock:
            if request_id in self._by_id:
                text = (
                    f"request id {shown(request_id)} is in use by an unfinished request; "
                    "choose another"
                )
                raise InputError(text)
            stream = Stream(request_id, f"{request_id}-{next(self._numbers)}")
            self._by_id[request_id] = self._by_name[stream.name] = stream
        return stream

    def close(self, stream: Stream) -> bool:
        """Free a stream's id; return whether it had not been freed."""
        with self._lock:
            if self._by_id.get(stream.request_id) is stream:
                del self._by_id[stream.request_id]
            return self._by_name.pop(stream.name, None) is not None

    def of(self, request_ids: Iterable[str]) -> list[Stream]:
        """Return the streams that are open under these ids."""
        found = (self._by_id.get(request_id) for request_id in request_ids)
        return [stream for stream in found if stream is not None]

    def all(self) -> list[Stream]:
        """Return the streams that are open."""
        with self._lock:
            return list(self._by_name.values())

    def deliver(self, outputs: Iterable[RequestOutput]) -> list[Stream]:
        """Hand outputs of the engine to those who wait; an id is free once its end is on the way.

        Returns
        -------
        list[Stream]
            Those whose event loop is closed: nobody waits any more.
        """
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Stream, RequestOutput]]] = {}
        for output in outputs:
            stream = self._by_name.get(output.request_id)
            if stream is None:
                continue
            output.request_id = stream.request_id
            by_loop.setdefault(stream.loop, []).append((stream, output))
            if output.finished:
                self.close(stream)
        lost = [news for loop, news in by_loop.items() if not tell(loop, _put_all, news)]
        return [stream for news in lost for stream, _ in news]

    def fail(self, error: BaseException) -> None:
        """End all streams with an error."""
        for stream in self.all():
            self.close(stream)
            tell(stream.loop, stream.put, error)


def tell(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *args: Any) -> bool:
    """Call a function in a loop's thread; return False if the loop is closed."""
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return False
    return True


def _put_all(news: Iterable[tuple[Stream, RequestOutput]]) -> None:
    for stream, output in news:
        stream.put(output)
