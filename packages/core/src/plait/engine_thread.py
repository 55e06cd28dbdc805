"""EngineThread: calls into an engine, one after another, and steps between them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from plait.streams import tell
from plait_kernels.errors import PlaitError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class EngineThread:
    """A thread that makes calls in the order in which they are asked for.

    Calls are made whatever becomes of the task that waits for them: who is cancelled, once or
    several times, does not take them back.

    Parameters
    ----------
    go_on : Callable[[], bool]
        Called in the thread after each call: whether ``step`` is to be called.
    step : Callable[[], None]
        Called between the others, as long as ``go_on`` says so.
    """

    def __init__(self, go_on: Callable[[], bool], step: Callable[[], None]) -> None:
        self._go_on = go_on
        self._step = step
        self._is_step_queued = False
        self._broken: BaseException | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plait-engine")

    @property
    def broken(self) -> BaseException | None:
        """What stopped it for good."""
        return self._broken

    async def call(self, function: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
        """Make a call in the thread and wait for it.

        Raises
        ------
        PlaitError
            The thread has stopped.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            try:
                self.check()
                result = function(*args, **keywords)
            except BaseException as error:  # the task that waits must hear of it, whatever it is
                tell(loop, _fail, done, error)
            else:
                tell(loop, _succeed, done, result)

        self._submit(job)
        return await done

    def post(self, function: Callable[[], Any]) -> None:
        """Make a call that nobody waits for; after a stop it is not made."""

        def job() -> None:
            if self._broken is None:
                function()

        if self._broken is None:
            self._submit(job)

    def check(self) -> None:
        """Raise PlaitError if the thread has stopped."""
        if self._broken is not None:
            text = f"the engine has stopped: {self._broken!r}; make a new one"
            raise PlaitError(text) from self._broken

    def stop(self, error: BaseException) -> None:
        """Stop for good; calls that are under way end, later ones fail."""
        if self._broken is None:
            self._broken = error
        self._thread.shutdown(wait=False)

    def _submit(self, job: Callable[[], None]) -> None:
        try:
            self._thread.submit(self._run, job)
        except RuntimeError as error:
            # It was shut down, or Python ends.
            self._broken = self._broken or error
            self.check()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        finally:
            if self._broken is None and not self._is_step_queued and self._go_on():
                self._is_step_queued = True
                self._submit(self._run_step)

    def _run_step(self) -> None:
        self._is_step_queued = False
        if self._broken is None and self._go_on():
            self._step()


def _succeed(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
