"""OutputProcessor: from what the core says of its sequences to what callers get."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from plait.completion_state import CompletionState
from plait.detokenizer import TokenDecoder
from plait.messages import CoreEvents, ErrorInfo
from plait.outputs import RequestMetrics, RequestOutput
from plait.top_logprobs import make_logprobs
from plait_kernels.arguments import shown
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


@dataclass
class FrontRequest:
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


@dataclass
class _Delivery:
    """Outputs on their way to the caller, and the requests that do not know yet."""

    outputs: list[RequestOutput]
    unmarked: list[FrontRequest] = field(default_factory=list)


class OutputProcessor:
    """Makes text and outputs of the core's tokens. The front's half of a request's life.

    A user's id lives here only: the core knows each child by an id of its own, which is never used
    twice, and what it says of a child that nobody expects (any more) is dropped. Calls that are
    broken off may be repeated after ``mend``.

    Parameters
    ----------
    tokenizer : Tokenizer | None
        None: no text, and no stop strings.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._decoder = None if tokenizer is None else TokenDecoder(tokenizer)
        # The truth: who is here. What follows from it is worked out again by ``mend``.
        self._requests: dict[str, FrontRequest] = {}
        self._parents: dict[str, FrontRequest] = {}
        self._changed: dict[str, FrontRequest] = {}
        # At most one entry: a dictionary gives it up in one go.
        self._box: dict[str, _Delivery] = {}

    def make(
        self,
        request_id: str,
        children: Sequence[str],
        prompt: str | None,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        lora_request: LoRARequest | None,
        arrival_time: float,
    ) -> FrontRequest:
        """Make the front's half of a request, for ``add``. Nothing changes yet.

        Parameters
        ----------
        request_id : str
            Unique among unfinished requests.
        children : Sequence[str]
            Ids in the core, one a completion, in order; never used before.
        prompt : str | None
        prompt_token_ids : Sequence[int]
        params : SamplingParams
        lora_request : LoRARequest | None
        arrival_time : float
            Seconds since the epoch.

        Raises
        ------
        InputError
            The id is in use, there are stop strings and no tokenizer, or no text can be made.
        """
        if request_id in self._requests or request_id in self._untold_ends():
            message = (
                f"request id {shown(request_id)} is in use by an unfinished request; "
                "allowed: an id that no unfinished request has. Choose another, or wait."
            )
            raise InputError(message)
        if params.stop and self._decoder is None:
            stop = shown(list(params.stop))
            message = (
                f"stop={stop} needs a tokenizer and the engine has none; "
                "use stop_token_ids, or make the engine with skip_tokenizer_init=False."
            )
            raise InputError(message)
        decoder = self._decoder if params.detokenize else None
        try:
            states = {
                name: CompletionState(index, params, decoder, prompt_token_ids, lora_request)
                for index, name in enumerate(children)
            }
        except Exception as error:  # whatever the tokenizer makes of the prompt's last tokens
            raise _no_text(error).to_error() from error
        request = FrontRequest(
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
        return request

    def add(self, request: FrontRequest) -> None:
        """Expect outputs of a request."""
        self._parents.update(dict.fromkeys(request.children, request))
        # Last: from this one the other is worked out again.
        self._requests[request.request_id] = request

    def process(self, outputs: Sequence[CoreOutput]) -> list[str]:
        """Take what the core tells; ``let_out`` makes outputs of it.

        Outputs that were taken before, or whose request is not expected any more, change nothing.

        Parameters
        ----------
        outputs : Sequence[CoreOutput]

        Returns
        -------
        list[str]
            Children that are over here and must be ended in the core.
        """
        aborts: list[str] = []
        for output in outputs:
            request = self._parents.get(output.request_id)
            if request is not None:
                self._changed[request.request_id] = request
                aborts += self._take_or_fail(request, output)
            elif output.finish_reason is None:
                aborts.append(output.request_id)
        return aborts

    def let_out(self) -> None:
        """Make outputs of all news, one a request; its ``output_kind`` may hold them back."""
        if not self._changed:
            return
        changed = list(self._changed.values())
        made = [output for request in changed if (output := self._make_output(request))]
        before = self._box.get("next")
        earlier = before.outputs if before else []
        # From here on they are let out, whatever happens: ``mend`` does the rest again.
        self._box["next"] = _Delivery(earlier + made, changed)
        self._mark()

    def take(self) -> list[RequestOutput]:
        """Hand over the outputs that were let out, each once."""
        return self._box.pop("next", _NOTHING).outputs

    def abort(self, request_id: str) -> tuple[list[str], RequestOutput | None]:
        """Forget a request.

        Parameters
        ----------
        request_id : str

        Returns
        -------
        list[str]
            Its children that were running, to be ended in the core; empty for an unknown id.
        RequestOutput | None
            Its last output, finished by "abort"; None for an unknown id.
        """
        delivery = self._box.get("next")
        if delivery is not None:
            self._take_back(delivery, request_id)
        request = self._requests.get(request_id)
        if request is None:
            return [], None
        self._forget(request)
        running = request.unfinished_children()
        for name in running:
            _end(request.children[name], "abort")
        return running, self._make_output(request, last=True)

    def has_unfinished(self) -> bool:
        """Return whether any request is unfinished, or its end is not handed over yet."""
        return bool(self._requests or self._box)

    def num_unfinished(self) -> int:
        """Return how many requests are unfinished."""
        return len(self._requests)

    def expected(self) -> set[str]:
        """Return the children that are unfinished here."""
        requests = self._requests.values()
        return {name for request in requests for name in request.unfinished_children()}

    def mend(self) -> None:
        """Make the books whole after a call that broke off, wherever that was."""
        self._mark()
        for request in self._requests.values():
            for child in request.children.values():
                child.mend()
            if request.finished:
                self._changed[request.request_id] = request
        requests = self._requests
        self._parents = {name: r for r in requests.values() for name in r.children}
        self._changed = {name: r for name, r in self._changed.items() if requests.get(name) is r}

    def _mark(self) -> None:
        """Let the requests know that their outputs have been let out; the finished ones go."""
        delivery = self._box.get("next")
        if delivery is None:
            return
        for request in delivery.unmarked:
            for child in request.children.values():
                child.mark_sent()
            if request.params.output_kind is RequestOutputKind.DELTA:
                request.prompt_logprobs = None
            if request.finished:
                self._forget(request)
        if delivery.unmarked:
            self._changed = {}
            delivery.unmarked = []

    def _untold_ends(self) -> set[str]:
        delivery = self._box.get("next")
        outputs = delivery.outputs if delivery else []
        return {output.request_id for output in outputs if output.finished}

    def _take_back(self, delivery: _Delivery, request_id: str) -> None:
        kept = [output for output in delivery.outputs if output.request_id != request_id]
        if kept:
            delivery.outputs = kept
        else:
            self._box.pop("next", None)

    def _take_or_fail(self, request: FrontRequest, output: CoreOutput) -> list[str]:
        try:
            return self._take(request, output)
        except Exception as error:  # whatever the tokenizer makes of a request's own tokens
            return self._fail(request, _no_text(error).to_error())

    def _take(self, request: FrontRequest, output: CoreOutput) -> list[str]:
        child = request.children[output.request_id]
        if output.events is not None:
            request.events[output.request_id] = output.events
        request.num_cached_tokens = max(request.num_cached_tokens, output.num_cached_tokens)
        if output.prompt_logprobs is not None and not request.prompt_logprobs_known:
            decoder = self._decoder if request.params.detokenize else None
            request.prompt_logprobs = [None, *make_logprobs(output.prompt_logprobs, decoder)]
            request.prompt_logprobs_known = True
        if output.error is not None:
            failed = self._fail(request, output.error.to_error())
            return [name for name in failed if name != output.request_id]
        return [output.request_id] if child.take(output) else []

    def _fail(self, request: FrontRequest, error: PlaitError) -> list[str]:
        """End a request; return the children that were running."""
        request.error = error
        running = request.unfinished_children()
        for name in running:
            _end(request.children[name], "error")
        return running

    def _make_output(self, request: FrontRequest, *, last: bool = False) -> RequestOutput | None:
        kind = request.params.output_kind
        finished = request.finished
        if kind is RequestOutputKind.FINAL_ONLY and not finished:
            return None
        children = request.children.values()
        if not last and not any(child.has_news for child in children):
            return None
        delta = kind is RequestOutputKind.DELTA
        completions = [
            child.make_output(delta=delta) for child in children if child.has_news or not delta
        ]
        return RequestOutput(
            request_id=request.request_id,
            prompt=request.prompt,
            prompt_token_ids=request.prompt_token_ids,
            prompt_logprobs=request.prompt_logprobs,
            outputs=completions,
            finished=finished,
            metrics=_metrics(request),
            lora_request=request.lora_request,
            num_cached_tokens=request.num_cached_tokens,
            error=request.error,
        )

    def _forget(self, request: FrontRequest) -> None:
        if self._requests.get(request.request_id) is request:
            del self._requests[request.request_id]
        self._changed.pop(request.request_id, None)
        for name in request.children:
            self._parents.pop(name, None)


_NOTHING = _Delivery([])


def _no_text(error: Exception) -> ErrorInfo:
    return ErrorInfo.of_fault(error, "the tokens cannot be made into text", InputError)


def _end(child: CompletionState, reason: str) -> None:
    try:
        child.end(reason)
    except Exception:  # no text can be made of the rest, which is no reason to go on
        child.cut(reason)


def _metrics(request: FrontRequest) -> RequestMetrics:
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
