"""AsyncLLMEngine: the engine for programs that run an asyncio loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, Self, TypeAlias, TypeVar

from plait.llm_engine import LLMEngine
from plait_kernels.errors import InputError, PlaitError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from plait.engine_args import EngineArgs
    from plait.outputs import RequestOutput
    from plait.prompts import Prompt
    from plait.tokenizer import Tokenizer
    from plait_lora.request import LoRARequest
    from plait_sampling.params import SamplingParams

    News: TypeAlias = RequestOutput | BaseException


_READING_SECONDS = 0.002
"""How often it is asked whether an adapter has been read."""

P = ParamSpec("P")
T = TypeVar("T")


class AsyncLLMEngine:
    """The engine, as coroutines.

    All calls into the engine run on one thread of its own, one after another, so the loop stays
    free while a step runs. Steps run as long as there are unfinished requests.

    Parameters
    ----------
    engine : LLMEngine

    Examples
    --------
    ::

        engine = AsyncLLMEngine.from_engine_args(AsyncEngineArgs(model, enable_lora=True))
        async for output in engine.generate("Hello", SamplingParams(), "0", lora_request=sql):
            print(output.outputs[0].text)
    """

    def __init__(self, engine: LLMEngine) -> None:
        self.engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="plait-engine")
        self._news: dict[str, asyncio.Queue[News]] = {}
        self._steps: asyncio.Task[None] | None = None
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._broken: BaseException | None = None

    @classmethod
    def from_engine_args(
        cls,
        engine_args: EngineArgs,
        start_engine_loop: bool = True,
        usage_context: object = None,
        stat_loggers: Sequence[object] | None = None,
    ) -> Self:
        """Load the model and make an engine.

        Parameters
        ----------
        engine_args : EngineArgs
        start_engine_loop, usage_context
            vLLM's; without effect: steps run as long as there are requests.
        stat_loggers : Sequence | None
            As of ``LLMEngine.from_engine_args``, as are the errors.
        """
        return cls(LLMEngine.from_engine_args(engine_args, stat_loggers=stat_loggers))

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: LoRARequest | None = None,
        priority: int = 0,
    ) -> AsyncIterator[RequestOutput]:
        """Generate from one prompt, output by output.

        Leaving the iteration early aborts the request.

        Parameters
        ----------
        prompt, sampling_params, request_id, lora_request, priority
            As of ``LLMEngine.add_request``.

        Yields
        ------
        RequestOutput
            As ``sampling_params.output_kind`` says; the last one is ``finished``.

        Raises
        ------
        PlaitError
            If the request cannot be served.
        """
        await self.check_health()
        if request_id in self._news:
            text = f"request id {request_id!r} is in use by an unfinished request; choose another"
            raise InputError(text)
        news = self._news[request_id] = asyncio.Queue()
        finished = False
        try:
            await self._call(
                self.engine.add_request,
                request_id,
                prompt,
                sampling_params,
                lora_request=lora_request,
                priority=priority,
            )
            self._start()
            while not finished:
                output = await news.get()
                if isinstance(output, BaseException):
                    raise output
                finished = output.finished
                if output.error is not None:
                    raise output.error
                yield output
        finally:
            del self._news[request_id]
            if not finished:
                await self._call(self.engine.abort_request, request_id)

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """End requests; a ``generate`` that waits for one of them raises ``CancelledError``."""
        ids = [request_id] if isinstance(request_id, str) else list(request_id)
        await self._call(self.engine.abort_request, ids)
        for name in ids:
            if name in self._news:
                self._news[name].put_nowait(asyncio.CancelledError(f"{name!r} was aborted"))

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        """Read an adapter before its first request, while steps go on.

        Errors are those of ``LLMEngine.add_lora``.
        """
        added = False
        try:
            while not (added := await self._call(self.engine.begin_add_lora, lora_request)):
                await asyncio.sleep(_READING_SECONDS)
        finally:
            if not added and self._broken is None:
                # Not waited for: this task may have been cancelled.
                self._thread.submit(self.engine.cancel_add_lora, lora_request)
        return True

    async def remove_lora(self, lora_id: int) -> bool:
        """Forget an adapter's id; return whether it was known."""
        return await self._call(self.engine.remove_lora, lora_id)

    async def list_loras(self) -> set[int]:
        """Return the ids of the adapters that are known."""
        return await self._call(self.engine.list_loras)

    async def pin_lora(self, lora_id: int) -> bool:
        """Keep an adapter in memory; see ``LLMEngine.pin_lora``."""
        return await self._call(self.engine.pin_lora, lora_id)

    async def reset_prefix_cache(self) -> None:
        """Forget every cached prefix."""
        await self._call(self.engine.reset_prefix_cache)

    async def get_tokenizer(self) -> Tokenizer:
        """Return the tokenizer."""
        return self.engine.get_tokenizer()

    async def pause_generation(self) -> None:
        """Run no further step until ``resume_generation``; requests are kept."""
        self._may_run.clear()

    async def resume_generation(self) -> None:
        """Go on after ``pause_generation``."""
        self._may_run.set()

    async def check_health(self) -> None:
        """Raise the error that stopped the engine, if one did.

        Raises
        ------
        PlaitError
            If a step broke, or the engine was shut down.
        """
        if self._broken is not None:
            text = f"the engine has stopped: {self._broken!r}; make a new one"
            raise PlaitError(text) from self._broken

    def shutdown(self) -> None:
        """Stop for good. Requests that are unfinished end with an error."""
        self._stop(PlaitError("the engine was shut down"))
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        if self._steps is None or self._steps.done():
            self._steps = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._broken is None and self._news:
            await self._may_run.wait()
            try:
                outputs = await self._call(self.engine.step)
            except Exception as error:  # whatever broke, those who wait must hear of it
                self._stop(error)
                return
            for output in outputs:
                if output.request_id in self._news:
                    self._news[output.request_id].put_nowait(output)
            # A step without work returns at once: leave room for those who add and abort.
            await asyncio.sleep(0)

    def _stop(self, error: BaseException) -> None:
        self._broken = error
        self._may_run.set()
        for news in self._news.values():
            news.put_nowait(error)

    async def _call(self, function: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: function(*args, **keywords))


AsyncLLM = AsyncLLMEngine
"""vLLM's newer name for the same engine."""
