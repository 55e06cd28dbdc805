"""OutputProcessor: from what the core says of its sequences to what callers get."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from plait.completion_state import CompletionState
from plait.detokenizer import TokenDecoder
from plait.messages import CoreEvents
from plait.outputs import RequestMetrics, RequestOutput
from plait.top_logprobs import make_logprobs
from plait_kernels.errors import InputError
from plait_sampling.params import RequestOutputKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.messages import CoreOutput
    from plait.outputs import Logprob
    from plait.tokenizer import Tokenizer
    from plait_kernels.errors import PlaitError
    from plait_lora.request import LoRARequest
    from plait_sampling.params import SamplingParams


@dataclass(frozen=True)
class ProcessedOutputs:
    """What came of one step.

    Attributes
    ----------
    request_outputs : list[RequestOutput]
        One for each request with news that its ``output_kind`` lets out.
    aborts : list[str]
        Children that are finished here and must be ended in the core.
    """

    request_outputs: list[RequestOutput]
    aborts: list[str]


@dataclass
class _Request:
    """A request and the state of its children."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    params: SamplingParams
    lora_request: LoRARequest | None
    arrival_time: float
    children: dict[str, CompletionState]
    events: dict[str, CoreEvents] = field(default_factory=dict)
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    prompt_logprobs_known: bool = False
    num_cached_tokens: int = 0
    error: PlaitError | None = None

    @property
    def finished(self) -> bool:
        return all(child.finish_reason is not None for child in self.children.values())

    def unfinished_children(self) -> list[str]:
        return [name for name, child in self.children.items() if child.finish_reason is None]


class OutputProcessor:
    """Makes text and outputs of the core's tokens. The front's half of a request's life.

    Parameters
    ----------
    tokenizer : Tokenizer | None
        None: no text, and no stop strings.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._decoder = None if tokenizer is None else TokenDecoder(tokenizer)
        self._requests: dict[str, _Request] = {}
        self._parents: dict[str, _Request] = {}

    def add(
        self,
        request_id: str,
        children: list[str],
        prompt: str | None,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        lora_request: LoRARequest | None,
        arrival_time: float,
    ) -> None:
        """Expect outputs of a request. Call it before the core can send any.

        Parameters
        ----------
        request_id : str
            Unique among unfinished requests.
        children : list[str]
            Request ids in the core, one a completion, in order.
        prompt : str | None
        prompt_token_ids : Sequence[int]
        params : SamplingParams
        lora_request : LoRARequest | None
        arrival_time : float
            Seconds since the epoch.

        Raises
        ------
        InputError
            An id is in use, or there are stop strings and no tokenizer. Nothing is kept then.
        """
        used = [name for name in children if name in self._parents]
        if request_id in self._requests or used:
            message = (
                f"request id {request_id!r} is in use by an unfinished request; allowed: an id "
                "that no unfinished request has. Choose another, or wait."
            )
            raise InputError(message)
        if params.stop and self._decoder is None:
            message = (
                f"stop={list(params.stop)!r} needs a tokenizer and the engine has none; "
                "use stop_token_ids, or make the engine with skip_tokenizer_init=False."
            )
            raise InputError(message)
        decoder = self._decoder if params.detokenize else None
        states = {
            name: CompletionState(index, params, decoder, prompt_token_ids, lora_request)
            for index, name in enumerate(children)
        }
        request = _Request(
            request_id,
            prompt,
            list(prompt_token_ids),
            params,
            lora_request,
            arrival_time,
            states,
        )
        if params.prompt_logprobs is not None and len(request.prompt_token_ids) == 1:
            request.prompt_logprobs = [None]
        self._requests[request_id] = request
        self._parents.update(dict.fromkeys(children, request))

    def process(self, outputs: Sequence[CoreOutput]) -> ProcessedOutputs:
        """Take what the core gave in one step.

        Outputs of requests that are not expected (any more) are dropped: the core may be ahead
        of an abort.

        Parameters
        ----------
        outputs : Sequence[CoreOutput]
        """
        aborts: list[str] = []
        changed: dict[str, _Request] = {}
        for output in outputs:
            request = self._parents.get(output.request_id)
            if request is None:
                continue
            aborts += self._take(request, output)
            changed[request.request_id] = request
        made = [self._make_output(request) for request in changed.values()]
        for request in changed.values():
            if request.finished:
                self._forget(request)
        return ProcessedOutputs([output for output in made if output is not None], aborts)

    def abort(self, request_id: str) -> list[str]:
        """Forget a request.

        Parameters
        ----------
        request_id : str

        Returns
        -------
        list[str]
            Its children that were running, to be ended in the core; empty for an unknown id.
        """
        request = self._requests.get(request_id)
        if request is None:
            return []
        running = request.unfinished_children()
        self._forget(request)
        return running

    def has_unfinished(self) -> bool:
        """Return whether any request is unfinished."""
        return bool(self._requests)

    def num_unfinished(self) -> int:
        """Return how many sequences are unfinished."""
        return sum(len(request.unfinished_children()) for request in self._requests.values())

    def _take(self, request: _Request, output: CoreOutput) -> list[str]:
        child = request.children[output.request_id]
        if child.finish_reason is not None:
            return []
        if output.events is not None:
            request.events[output.request_id] = output.events
        request.num_cached_tokens = max(request.num_cached_tokens, output.num_cached_tokens)
        if output.prompt_logprobs is not None and not request.prompt_logprobs_known:
            request.prompt_logprobs_known = True
            decoder = self._decoder if request.params.detokenize else None
            request.prompt_logprobs = [None, *make_logprobs(output.prompt_logprobs, decoder)]
        if output.error is not None:
            return self._fail(request, output.request_id, output.error.to_error())
        stopped_here = child.take(output)
        return [output.request_id] if stopped_here else []

    def _fail(self, request: _Request, failed: str, error: PlaitError) -> list[str]:
        request.error = error
        running = request.unfinished_children()
        for name in running:
            request.children[name].end("error")
        return [name for name in running if name != failed]

    def _make_output(self, request: _Request) -> RequestOutput | None:
        kind = request.params.output_kind
        finished = request.finished
        if kind is RequestOutputKind.FINAL_ONLY and not finished:
            return None
        children = request.children.values()
        if not any(child.has_news for child in children):
            return None
        delta = kind is RequestOutputKind.DELTA
        completions = [
            child.make_output(delta=delta) for child in children if child.has_news or not delta
        ]
        for child in children:
            child.mark_sent()
        prompt_logprobs = request.prompt_logprobs
        if delta:
            request.prompt_logprobs = None
        return RequestOutput(
            request_id=request.request_id,
            prompt=request.prompt,
            prompt_token_ids=request.prompt_token_ids,
            prompt_logprobs=prompt_logprobs,
            outputs=completions,
            finished=finished,
            metrics=_metrics(request),
            lora_request=request.lora_request,
            num_cached_tokens=request.num_cached_tokens,
            error=request.error,
        )

    def _forget(self, request: _Request) -> None:
        del self._requests[request.request_id]
        for name in request.children:
            del self._parents[name]


def _metrics(request: _Request) -> RequestMetrics:
    tokens = sum(len(child.token_ids) for child in request.children.values())
    events = list(request.events.values())
    if not events:
        return RequestMetrics(request.arrival_time, num_generation_tokens=tokens)
    happened = events[0] if len(events) == 1 else _together(events)
    return RequestMetrics(
        arrival_time=request.arrival_time,
        queued_ts=happened.queued_ts,
        scheduled_ts=happened.scheduled_ts,
        first_token_ts=happened.first_token_ts,
        last_token_ts=happened.last_token_ts,
        num_preemptions=happened.num_preemptions,
        num_generation_tokens=tokens,
    )


def _together(events: Sequence[CoreEvents]) -> CoreEvents:
    """Return what happened to a request of several children: first, last, and in all."""
    scheduled = [event.scheduled_ts for event in events if event.scheduled_ts is not None]
    first = [event.first_token_ts for event in events if event.first_token_ts is not None]
    last = [event.last_token_ts for event in events if event.last_token_ts is not None]
    return CoreEvents(
        queued_ts=min(event.queued_ts for event in events),
        scheduled_ts=min(scheduled, default=None),
        first_token_ts=min(first, default=None),
        last_token_ts=max(last, default=None),
        num_preemptions=sum(event.num_preemptions for event in events),
    )
