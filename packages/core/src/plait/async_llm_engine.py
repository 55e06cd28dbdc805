"""AsyncLLMEngine: the engine for programs that run an asyncio loop."""

from __future__ import annotations

import asyncio
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar, get_args

from plait.async_queries import AsyncQueries
from plait.engine_thread import EngineThread
from plait.llm_engine import LLMEngine
from plait.new_request import id_list
from plait.not_served import refuse_other_keywords
from plait.streams import Streams, tell
from plait_kernels.arguments import shown
from plait_kernels.errors import InputError, PlaitError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from plait.engine_args import EngineArgs
    from plait.new_request import NewRequest
    from plait.outputs import RequestOutput
    from plait.prompts import Prompt
    from plait.streams import Stream
    from plait_lora.request import LoRARequest
    from plait_sampling.params import SamplingParams

T = TypeVar("T")

PauseMode: TypeAlias = Literal["abort", "wait", "keep"]

_READING_SECONDS = 0.002
"""How often it is asked whether an adapter has been read."""

_TOKENIZERS = 4
"""Prompts that are tokenized at the same time: a long one must not hold up short ones."""


class AsyncLLMEngine(AsyncQueries):
    """The engine, as coroutines.

    All calls into the engine run on one thread of its own, one after another, so the loop stays
    free while a step runs; prompts are tokenized in other threads. Steps run as long as there are
    unfinished requests.

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
        self._streams = Streams()
        # The thread must not keep the engine, which stops it when it goes.
        this = weakref.ref(self)
        self._thread = EngineThread(lambda: _go_on(this()), lambda: _step(this()))
        self._tokenizers = ThreadPoolExecutor(_TOKENIZERS, thread_name_prefix="plait-tokenizer")
        # What a pause forbids; these belong to the engine's thread.
        self._accepts = True
        self._steps = True
        self._drained: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

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
        prompt_text: str | None = None,
        lora_request: LoRARequest | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        trace_headers: object = None,
        priority: int = 0,
        data_parallel_rank: int | None = None,
        session_id: object = None,
        kv_hints: object = None,
        reasoning_ended: bool | None = None,
        reasoning_parser_kwargs: object = None,
    ) -> AsyncIterator[RequestOutput]:
        """Generate from one prompt, output by output.

        Leaving the iteration early, or cancelling the task, ends the request. Its id is free again
        as soon as it has ended.

        Parameters
        ----------
        prompt, sampling_params, request_id, lora_request, tokenization_kwargs, priority
            As of ``LLMEngine.add_request``.
        prompt_text, trace_headers, data_parallel_rank, session_id, kv_hints
            vLLM's, as the next line. A value that asks for something is refused.
        reasoning_ended, reasoning_parser_kwargs
            Refused.

        Yields
        ------
        RequestOutput
            As ``sampling_params.output_kind`` says; the last one is ``finished``.

        Raises
        ------
        PlaitError
            If the request cannot be served, the engine has stopped, or generation is paused in
            another mode than "keep".
        """
        refuse_other_keywords(
            prompt_text=prompt_text,
            trace_headers=trace_headers,
            data_parallel_rank=data_parallel_rank or None,
            session_id=session_id,
            kv_hints=kv_hints,
            reasoning_ended=reasoning_ended,
            reasoning_parser_kwargs=reasoning_parser_kwargs,
        )
        self._thread.check()
        arrival_time = time.time()
        stream = self._streams.open(request_id)
        try:
            new = await self._in_tokenizer_thread(
                self.engine.check_request,
                stream.name,
                prompt,
                sampling_params,
                arrival_time,
                lora_request,
                priority,
                tokenization_kwargs,
            )
            await self._thread.call(self._add, stream, new)
            finished = False
            while not finished:
                output = await stream.next()
                finished = output.finished
                yield output
        finally:
            # Nothing is waited for here: who is being cancelled may be cancelled again.
            if self._streams.close(stream) and self._thread.broken is None:
                self._thread.post(lambda: self.engine.abort_request(stream.name))

    async def abort(self, request_id: str | Iterable[str], internal: bool = False) -> None:
        """End requests; ids that are not there are left alone.

        The ``generate`` of each gives a last output with what there is so far, whose
        ``finish_reason`` is "abort". ``internal`` is vLLM's, for ids of its own; refused if true.
        """
        refuse_other_keywords(internal=internal)
        streams = self._streams.of(id_list(request_id))
        for stream in streams:
            stream.is_aborted = True
        await self._thread.call(self._abort, streams)

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        """Read an adapter before its first request, while steps go on.

        Errors are those of ``LLMEngine.add_lora``.
        """
        added = False
        try:
            while not (added := await self._thread.call(self.engine.begin_add_lora, lora_request)):
                await asyncio.sleep(_READING_SECONDS)
        finally:
            if not added and self.engine.core.adapters is not None:
                # Not waited for: this task may have been cancelled.
                self._thread.post(lambda: self.engine.cancel_add_lora(lora_request))
        return True

    async def remove_lora(self, lora_id: int) -> bool:
        """Forget an adapter's id; return whether it was known."""
        return await self._thread.call(self.engine.remove_lora, lora_id)

    async def list_loras(self) -> set[int]:
        """Return the ids of the adapters that are known."""
        return await self._thread.call(self.engine.list_loras)

    async def pin_lora(self, lora_id: int) -> bool:
        """Keep an adapter in memory; see ``LLMEngine.pin_lora``."""
        return await self._thread.call(self.engine.pin_lora, lora_id)

    async def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Forget every cached prefix; see ``LLMEngine.reset_prefix_cache``."""
        return await self._thread.call(
            self.engine.reset_prefix_cache, reset_running_requests, reset_connector
        )

    def get_num_unfinished_requests(self) -> int:
        """Return how many requests are unfinished."""
        return len(self._streams.all())

    async def pause_generation(
        self, *, mode: PauseMode = "abort", clear_cache: bool = True
    ) -> None:
        """Run no further step until ``resume_generation``; return when none is under way.

        Parameters
        ----------
        mode : "abort" | "wait" | "keep"
            What becomes of unfinished requests. "abort" ends them, each with a last output. "wait"
            finishes them first. "keep" keeps them, and those that come meanwhile; they go on
            afterwards. In the other modes requests that come meanwhile are refused.
        clear_cache : bool
            Forget every cached prefix; requests that are kept are computed again.

        Raises
        ------
        InputError
            For another mode.
        """
        modes = get_args(PauseMode)
        if not isinstance(mode, str) or mode not in modes:
            text = f"mode is {shown(mode)}; allowed: {', '.join(map(repr, modes))}"
            raise InputError(text)
        drained = asyncio.Event()
        await self._thread.call(self._pause, mode, asyncio.get_running_loop(), drained)
        await drained.wait()
        self._thread.check()
        if clear_cache:
            await self.reset_prefix_cache(reset_running_requests=True)

    async def resume_generation(self) -> None:
        """Go on after ``pause_generation``."""
        await self._thread.call(self._resume)

    async def is_paused(self) -> bool:
        """Return whether generation is paused, or about to be."""
        return not (self._accepts and self._steps)

    async def wait_for_requests_to_drain(self, drain_timeout: int = 300) -> None:
        """Return when no request is unfinished.

        Parameters
        ----------
        drain_timeout : int
            Seconds.

        Raises
        ------
        TimeoutError
            Some still are after so long.
        """
        async with asyncio.timeout(drain_timeout):
            while self.get_num_unfinished_requests():
                await asyncio.sleep(_READING_SECONDS)

    async def sleep(self, level: int = 1, mode: PauseMode = "abort") -> None:
        """Run no further step until ``wake_up``.

        Parameters
        ----------
        level : int
            0 only: weights and KV cache stay where they are.
        mode : "abort" | "wait" | "keep"
            As of ``pause_generation``.

        Raises
        ------
        InputError
            For another level or mode.
        """
        if level != 0:
            text = (
                f"sleep(level={shown(level)}) is not served: weights and KV cache stay in memory "
                "as long as the engine lives; shut it down, or call sleep(level=0)"
            )
            raise InputError(text)
        await self.pause_generation(mode=mode, clear_cache=False)

    async def wake_up(self, tags: Sequence[str] | None = None) -> bool:
        """Go on after ``sleep``, unless ``tags`` are others than "scheduling"; return True."""
        if tags is None or "scheduling" in tags:
            await self.resume_generation()
        return True

    @property
    def is_running(self) -> bool:
        """Whether the engine can serve requests."""
        return not self.errored

    @property
    def is_stopped(self) -> bool:
        """Whether the engine has stopped for good."""
        return self.errored

    @property
    def errored(self) -> bool:
        """Whether the engine has stopped for good: a step broke, or it was shut down."""
        return self._thread.broken is not None

    @property
    def dead_error(self) -> BaseException:
        """What stopped the engine."""
        return self._thread.broken or PlaitError("the engine has not stopped")

    async def check_health(self) -> None:
        """Raise the error that stopped the engine, if one did.

        Raises
        ------
        PlaitError
            If a step broke, or the engine was shut down.
        """
        self._thread.check()

    def shutdown(self, timeout: float | None = None) -> None:
        """Stop for good. Requests that are unfinished end with an error.

        Parameters
        ----------
        timeout : float | None
            Without effect: nothing is waited for.
        """
        self._stop(PlaitError("the engine was shut down"))

    def __del__(self) -> None:
        # Not when it was never whole.
        if hasattr(self, "_drained"):
            self.shutdown()

    async def _in_tokenizer_thread(self, function: Callable[..., T], *args: object) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._tokenizers, function, *args)
        except RuntimeError:
            # It takes no more work once the engine is shut down.
            self._thread.check()
            raise

    # In the engine's thread

    def _add(self, stream: Stream, new: NewRequest) -> None:
        if not self._accepts:
            text = (
                "generation is paused and takes no requests; try again after resume_generation, "
                "or pause with mode='keep'"
            )
            raise PlaitError(text)
        self.engine.add_new(new)
        if stream.is_aborted:
            self._abort([stream])

    def _abort(self, streams: Iterable[Stream]) -> None:
        self._deliver(self.engine.abort_request([stream.name for stream in streams]))

    def _deliver(self, outputs: Iterable[RequestOutput]) -> None:
        for stream in self._streams.deliver(outputs):
            self._streams.close(stream)
            self.engine.abort_request(stream.name)

    def _pause(
        self, mode: PauseMode, loop: asyncio.AbstractEventLoop, drained: asyncio.Event
    ) -> None:
        self._accepts = mode == "keep"
        self._steps = mode == "wait"
        if mode == "abort":
            self._abort(self._streams.all())
        self._drained.append((loop, drained))
        self._tell_if_drained()

    def _resume(self) -> None:
        self._accepts = self._steps = True
        self._tell_drained()

    def _tell_if_drained(self) -> None:
        if not self._steps or not self.engine.has_unfinished_requests():
            self._tell_drained()

    def _tell_drained(self) -> None:
        waiting, self._drained = self._drained, []
        for loop, drained in waiting:
            tell(loop, drained.set)

    def _stop(self, error: BaseException) -> None:
        self._thread.stop(error)
        self._tokenizers.shutdown(wait=False)
        self._streams.fail(error)
        self._tell_drained()


def _go_on(engine: AsyncLLMEngine | None) -> bool:
    """Whether a step is to be run; in the engine's thread."""
    return engine is not None and engine._steps and engine.engine.has_unfinished_requests()


def _step(engine: AsyncLLMEngine | None) -> None:
    """Run a step and tell those who wait; in the engine's thread."""
    if engine is None:
        return
    try:
        outputs = engine.engine.step()
    except Exception as error:  # whatever broke, those who wait must hear of it
        engine._stop(error)
    except BaseException as error:  # which must not end the tasks of others as it would this one
        engine._stop(PlaitError(f"a step was ended by {error!r}"))
    else:
        engine._deliver(outputs)
        engine._tell_if_drained()


AsyncLLM = AsyncLLMEngine
"""vLLM's newer name for the same engine."""
