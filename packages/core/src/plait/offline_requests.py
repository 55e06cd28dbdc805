"""OfflineRequests: the requests of an LLM, numbered, run to their end and told in order."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from plait.outputs import CompletionOutput, RequestOutput
from plait.progress import GenerationProgress
from plait.prompts import ParsedPrompt
from plait_kernels.errors import InputError, PlaitError, RequestsFailed
from plait_sampling.params import RequestOutputKind, SamplingParams

if TYPE_CHECKING:
    from plait.llm_engine import LLMEngine
    from plait_lora.request import LoRARequest

P = ParamSpec("P")
T = TypeVar("T")

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


def _alone(
    method: Callable[Concatenate[OfflineRequests, P], T],
) -> Callable[Concatenate[OfflineRequests, P], T]:
    """Let other threads wait while a method runs."""

    @functools.wraps(method)
    def alone(self: OfflineRequests, /, *args: P.args, **keywords: P.kwargs) -> T:
        with self._lock:
            return method(self, *args, **keywords)

    return alone


class OfflineRequests:
    """Adds requests to an engine and steps it until they are finished.

    Their ids are "0", "1", … over the life of the engine, one for each prompt. Calls of several
    threads run one after another: who steps is told of everybody's outputs.

    Parameters
    ----------
    engine : LLMEngine
    """

    def __init__(self, engine: LLMEngine) -> None:
        self._engine = engine
        self._numbers = itertools.count()
        # Those of ``enqueue`` until ``wait`` tells them, in order.
        self._enqueued: dict[str, RequestOutput | None] = {}
        self._asleep = False
        self._lock = threading.RLock()

    @_alone
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
        try:
            for i, (name, one) in enumerate(zip(names, wanted, strict=True)):
                if i not in errors:
                    try:
                        self._add(name, one)
                    except PlaitError as error:
                        errors[i] = error
            queued = [name for i, name in enumerate(names) if i not in errors]
            finished = self._step_until_finished(queued, use_tqdm)
        finally:
            # Whatever stopped the loop, nothing of this call stays behind.
            self._engine.abort_request(names)
        outputs = [
            _ended(name, one, "error", errors[i])
            if i in errors
            else finished.get(name) or _ended(name, one, "abort")
            for i, (name, one) in enumerate(zip(names, wanted, strict=True))
        ]
        return _checked(outputs)

    @_alone
    def enqueue(self, wanted: Sequence[Wanted]) -> list[str]:
        """Queue requests, all of them or none; return their ids.

        Raises
        ------
        PlaitError
            That of the first request that cannot be queued.
        """
        names: list[str] = []
        try:
            for one in wanted:
                if one.error is not None:
                    raise one.error
                names.append(str(next(self._numbers)))
                self._add(names[-1], one)
        except BaseException:
            self._engine.abort_request(names)
            raise
        self._enqueued.update(dict.fromkeys(names))
        return names

    @_alone
    def wait(self, use_tqdm: bool | Callable[..., Any]) -> list[RequestOutput]:
        """Finish what was enqueued and return it, in order. An interrupted call may be repeated.

        Raises
        ------
        PlaitError
            As ``run``.
        """
        self._check_awake()
        waiting = [name for name, output in self._enqueued.items() if output is None]
        self._step_until_finished(waiting, use_tqdm)
        outputs = [output or _ended(name, None, "abort") for name, output in self._enqueued.items()]
        self._enqueued.clear()
        return _checked(outputs)

    @_alone
    def sleep(self, level: int, mode: str) -> None:
        """Run nothing until ``wake_up``; see ``LLM.sleep``."""
        if level != 0:
            text = (
                f"sleep(level={level!r:.80}) is not served: weights and KV cache stay in memory as "
                "long as the LLM lives; delete it, or call sleep(level=0)"
            )
            raise InputError(text)
        if mode not in ("abort", "wait", "keep"):
            text = f"mode of sleep must be 'abort', 'wait' or 'keep', got {mode!r:.80}"
            raise InputError(text)
        waiting = [name for name, output in self._enqueued.items() if output is None]
        if mode == "abort":
            self._enqueued.update((o.request_id, o) for o in self._engine.abort_request(waiting))
        elif mode == "wait":
            self._step_until_finished(waiting, use_tqdm=False)
        self._asleep = True

    def wake_up(self, tags: Sequence[str] | None) -> bool:
        """Go on; return whether it is awake. See ``LLM.wake_up``."""
        for tag in tags or ():
            if tag not in _TAGS:
                text = f"tags of wake_up must be of {', '.join(_TAGS)}, got {tag!r:.80}"
                raise InputError(text)
        if tags is None or "scheduling" in tags:
            self._asleep = False
        return not self._asleep

    def _check_awake(self) -> None:
        if self._asleep:
            text = "the LLM sleeps, and runs nothing before wake_up()"
            raise InputError(text)

    def _add(self, name: str, wanted: Wanted) -> None:
        self._engine.add_request(
            name,
            wanted.prompt,
            _final_only(wanted.params),
            lora_request=wanted.lora_request,
            priority=wanted.priority,
        )

    def _step_until_finished(
        self, names: Iterable[str], use_tqdm: bool | Callable[..., Any]
    ) -> dict[str, RequestOutput]:
        open_names = set(names)
        finished: dict[str, RequestOutput] = {}
        with GenerationProgress(len(open_names), use_tqdm) as progress:
            # Somebody may abort one of them by its id: no output will come then.
            while open_names and self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    if not output.finished:
                        continue
                    if output.request_id in self._enqueued:
                        self._enqueued[output.request_id] = output
                    if output.request_id in open_names:
                        open_names.discard(output.request_id)
                        finished[output.request_id] = output
                        progress.finish(output)
        return finished


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
    name: str, wanted: Wanted | None, reason: str, error: PlaitError | None = None
) -> RequestOutput:
    """Make the output of a request of which the engine tells nothing."""
    prompt = None if wanted is None else wanted.prompt
    text = prompt.text if isinstance(prompt, ParsedPrompt) else prompt
    return RequestOutput(
        request_id=name,
        prompt=text if isinstance(text, str) else None,
        prompt_token_ids=[],
        prompt_logprobs=None,
        outputs=[CompletionOutput(0, "", [], finish_reason=reason)],
        finished=True,
        lora_request=None if wanted is None else wanted.lora_request,
        error=error,
    )


def _checked(outputs: list[RequestOutput]) -> list[RequestOutput]:
    errors = {i: o.error for i, o in enumerate(outputs) if o.error is not None}
    if not errors:
        return outputs
    first = min(errors)
    if len(outputs) == 1:
        raise errors[first]
    text = (
        f"{len(errors)} of {len(outputs)} requests failed; the first is prompt {first}: "
        f"{errors[first]} (the exception's .errors has all of them by place, and .outputs every "
        "output, those that finished included)"
    )
    raise RequestsFailed(text, errors, list(outputs))
