"""OfflineRequests: the requests of an LLM, numbered, run to their end and told in order."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plait.outputs import CompletionOutput, RequestOutput
from plait.progress import GenerationProgress
from plait.prompts import ParsedPrompt
from plait_kernels.arguments import shown
from plait_kernels.errors import InputError, PlaitError, RequestsFailed
from plait_sampling.params import RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    from plait.llm_engine import LLMEngine
    from plait_lora.request import LoRARequest

_TAGS = ("weights", "kv_cache", "scheduling")


@dataclass(frozen=True)
class Wanted:
    """One request as the caller wants it.

    Attributes
    ----------
    prompt : object
        Unchecked, or a ``ParsedPrompt``; for an error, what the caller passed.
    params : SamplingParams
    lora_request : LoRARequest | None
    priority : int
    error : PlaitError | None
        Why it cannot even be queued.
    """

    prompt: Any
    params: SamplingParams
    lora_request: LoRARequest | None
    priority: int
    error: PlaitError | None = None


@dataclass
class _Batch:
    """Requests that are waited for together.

    Attributes
    ----------
    finished : dict[str, RequestOutput | None]
        By name, in order; None while it is unfinished.
    news : list[RequestOutput]
        Those that finished and that no progress bar has counted.
    """

    finished: dict[str, RequestOutput | None] = field(default_factory=dict)
    news: list[RequestOutput] = field(default_factory=list)

    def unfinished(self) -> list[str]:
        return [name for name, output in self.finished.items() if output is None]


class OfflineRequests:
    """Adds requests to an engine and steps it until they are finished.

    Their ids are "0", "1", … over the life of the engine, one for each prompt. Several threads may
    call it: their requests run together, and whoever steps the engine keeps what is another's.

    Parameters
    ----------
    engine : LLMEngine
    """

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._numbers = itertools.count()
        self._enqueued = _Batch()
        self._batch_of: dict[str, _Batch] = {}
        # What the engine has handed over and nobody has been told.
        self._arrived: list[RequestOutput] = []
        self._lock = threading.Lock()
        self._asleep = False

    def run(
        self, wanted: Sequence[Wanted], use_tqdm: bool | Callable[..., Any]
    ) -> list[RequestOutput]:
        """Run requests; those that fail do not disturb the others.

        Raises
        ------
        InputError
            The only request cannot be served.
        RequestsFailed
            Some of several requests cannot be served.
        """
        self._check_awake()
        errors = {i: one.error for i, one in enumerate(wanted) if one.error is not None}
        names = [str(next(self._numbers)) for _ in wanted]
        batch = _Batch()
        try:
            for i, (name, one) in enumerate(zip(names, wanted, strict=True)):
                if i not in errors:
                    try:
                        self._add(batch, name, one)
                    except PlaitError as error:
                        errors[i] = error
            self._finish(batch, use_tqdm)
        finally:
            # Whatever stopped the loop, nothing of this call stays behind.
            self._drop(names)
        outputs = [
            _ended(name, one, "error", errors[i])
            if i in errors
            else batch.finished[name] or _ended(name, one, "abort")
            for i, (name, one) in enumerate(zip(names, wanted, strict=True))
        ]
        return _checked(outputs)

    def enqueue(self, wanted: Sequence[Wanted]) -> list[str]:
        """Queue requests, all of them or none; return their ids.

        Raises
        ------
        PlaitError
            That of the first request that cannot be queued.
        """
        names: list[str] = []
        added = _Batch()
        try:
            for one in wanted:
                if one.error is not None:
                    raise one.error
                names.append(str(next(self._numbers)))
                self._add(added, names[-1], one)
            with self._lock:
                self._move(added, self._enqueued)
        except BaseException:
            self._drop(names)
            with self._lock:
                for name in names:
                    self._enqueued.finished.pop(name, None)
            raise
        return names

    def wait(self, use_tqdm: bool | Callable[..., Any]) -> list[RequestOutput]:
        """Finish what was enqueued and return it, in order. An interrupted call may be repeated.

        Raises
        ------
        PlaitError
            As ``run``.
        """
        self._check_awake()
        batch = _Batch()
        try:
            with self._lock:
                batch, self._enqueued = self._enqueued, _Batch()
            self._finish(batch, use_tqdm)
            self._drop(batch.unfinished())
            outputs = [output for output in batch.finished.values() if output is not None]
            failure = _failure(outputs)
            if failure is None:
                return outputs
        except BaseException:
            with self._lock:
                if self._enqueued is not batch:
                    self._move(self._enqueued, batch)
                    self._enqueued = batch
            raise
        raise failure

    def sleep(self, level: int, mode: str) -> None:
        """Run nothing until ``wake_up``; see ``LLM.sleep``."""
        if level != 0:
            text = (
                f"sleep(level={shown(level)}) is not served: weights and KV cache stay in memory "
                "as long as the LLM lives; delete it, or call sleep(level=0)"
            )
            raise InputError(text)
        if mode not in ("abort", "wait", "keep"):
            text = f"mode of sleep must be 'abort', 'wait' or 'keep', got {shown(mode)}"
            raise InputError(text)
        if mode == "abort":
            with self._lock:
                self._arrived.extend(self._engine.abort_request(self._enqueued.unfinished()))
                self._take()
        elif mode == "wait":
            self._finish(self._enqueued, use_tqdm=False)
        self._asleep = True

    def wake_up(self, tags: Sequence[str] | None) -> bool:
        """Go on; return whether it is awake. See ``LLM.wake_up``."""
        known = isinstance(tags, Sequence) and not isinstance(tags, str)
        if tags is not None and not (known and all(tag in _TAGS for tag in tags)):
            text = f"tags of wake_up must be a list of {', '.join(_TAGS)}, got {shown(tags)}"
            raise InputError(text)
        if tags is None or "scheduling" in tags:
            self._asleep = False
        return not self._asleep

    def _check_awake(self) -> None:
        if self._asleep:
            text = "the LLM sleeps, and runs nothing before wake_up()"
            raise InputError(text)

    def _add(self, batch: _Batch, name: str, wanted: Wanted) -> None:
        batch.finished[name] = None
        # First: another thread's step may finish it at once.
        self._batch_of[name] = batch
        try:
            self._engine.add_request(
                name,
                wanted.prompt,
                _final_only(wanted.params),
                lora_request=wanted.lora_request,
                priority=wanted.priority,
            )
        except BaseException:
            del batch.finished[name], self._batch_of[name]
            raise

    def _move(self, source: _Batch, target: _Batch) -> None:
        for name, output in source.finished.items():
            target.finished[name] = output
            if name in self._batch_of:
                self._batch_of[name] = target

    def _drop(self, names: Iterable[str]) -> None:
        """End requests that nobody waits for any more."""
        left = [name for name in names if name in self._batch_of]
        self._engine.abort_request(left)
        for name in left:
            self._batch_of.pop(name, None)

    def _finish(self, batch: _Batch, use_tqdm: bool | Callable[..., Any]) -> None:
        """Step until all requests of a batch are finished.

        Somebody may abort one of them by its id, or step the engine: its output is not known then.
        """
        with self._lock:
            self._take()
            left = set(batch.unfinished())
            batch.news.clear()
        with GenerationProgress(len(left), use_tqdm) as progress:
            while left:
                with self._lock:
                    self._take()
                    if not batch.news:
                        if not self._engine.has_unfinished_requests():
                            return
                        # One operation: an interrupt comes before it or after it.
                        self._arrived.extend(self._engine.step())
                        self._take()
                    news, batch.news = batch.news, []
                for output in news:
                    if output.request_id in left:
                        left.remove(output.request_id)
                        progress.finish(output)

    def _take(self) -> None:
        """Give outputs that are finished to those who wait for them.

        A call that was interrupted is made up for by the next one.
        """
        for output in self._arrived:
            batch = self._batch_of.get(output.request_id)
            if output.finished and batch is not None:
                batch.finished[output.request_id] = output
                batch.news.append(output)
                self._batch_of.pop(output.request_id, None)
        self._arrived.clear()


def one_each(name: str, value: Any, count: int) -> list[Any]:
    """Return a value for each of ``count`` prompts: the same for all, or those of a list.

    Raises
    ------
    InputError
        A list has another length.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        text = (
            f"{name} has {len(value)} entries for {count} prompts; pass one for all prompts, or a "
            "list with one a prompt"
        )
        raise InputError(text)
    return list(value)


def _final_only(params: SamplingParams) -> SamplingParams:
    if not isinstance(params, SamplingParams):
        return params  # add_request says what is wrong with it
    params = params.clone()
    params.output_kind = RequestOutputKind.FINAL_ONLY
    return params


def _ended(
    name: str, wanted: Wanted, reason: str, error: PlaitError | None = None
) -> RequestOutput:
    """Make the output of a request of which the engine tells nothing."""
    prompt = wanted.prompt
    text = prompt.text if isinstance(prompt, ParsedPrompt) else prompt
    return RequestOutput(
        request_id=name,
        prompt=text if isinstance(text, str) else None,
        prompt_token_ids=[],
        prompt_logprobs=None,
        outputs=[CompletionOutput(0, "", [], finish_reason=reason)],
        finished=True,
        lora_request=wanted.lora_request,
        error=error,
    )


def _checked(outputs: list[RequestOutput]) -> list[RequestOutput]:
    failure = _failure(outputs)
    if failure is not None:
        raise failure
    return outputs


def _failure(outputs: list[RequestOutput]) -> PlaitError | None:
    """Return what is to be raised if some requests failed."""
    errors = {i: o.error for i, o in enumerate(outputs) if o.error is not None}
    if not errors:
        return None
    first = min(errors)
    if len(outputs) == 1:
        return errors[first]
    text = (
        f"{len(errors)} of {len(outputs)} requests failed; the first is prompt {first}: "
        f"{errors[first]} (the exception's .errors has all of them by place, and .outputs every "
        "output, those that finished included)"
    )
    return RequestsFailed(text, errors, list(outputs))
