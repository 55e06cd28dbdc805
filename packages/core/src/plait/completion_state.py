"""CompletionState: one completion while it grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from plait.detokenizer import Detokenizer
from plait.outputs import CompletionOutput
from plait.stop_strings import StopStrings
from plait.top_logprobs import make_logprobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.detokenizer import DetokenizerState, TokenDecoder
    from plait.messages import CoreOutput
    from plait.outputs import Logprob
    from plait_lora.request import LoRARequest
    from plait_sampling.params import SamplingParams


class _Before(NamedTuple):
    """What a completion was, until a change of it is done."""

    num_tokens: int
    text: str
    num_logprobs: int
    cumulative: float
    detokenizer: DetokenizerState | None


class CompletionState:
    """Tokens, text and logprobs of one completion, and what of them was let out.

    Parameters
    ----------
    index : int
        Which of the request's n completions.
    params : SamplingParams
    decoder : TokenDecoder | None
        None: no text.
    prompt_token_ids : Sequence[int]
    lora_request : LoRARequest | None
    """

    def __init__(
        self,
        index: int,
        params: SamplingParams,
        decoder: TokenDecoder | None,
        prompt_token_ids: Sequence[int],
        lora_request: LoRARequest | None,
    ) -> None:
        self.index = index
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.has_news = False
        self._params = params
        self._decoder = decoder
        self._detokenizer = (
            None
            if decoder is None
            else Detokenizer(
                decoder,
                prompt_token_ids,
                skip_special_tokens=params.skip_special_tokens,
                spaces_between_special_tokens=params.spaces_between_special_tokens,
            )
        )
        self._stops = StopStrings(params.stop_strings, params.include_stop_str_in_output)
        self._lora_request = lora_request
        self._text = ""
        self._logprobs: list[dict[int, Logprob]] | None = None if params.logprobs is None else []
        self._cumulative = 0.0
        self._sent_tokens = 0
        self._sent_text = 0
        self._before: _Before | None = None

    def take(self, output: CoreOutput) -> bool:
        """Append what one step gave, all of it or nothing; what was taken before is left alone.

        Returns
        -------
        bool
            Whether a stop string ended the completion while the core goes on with it.
        """
        self._begin()
        if self.finish_reason is None and output.start >= len(self.token_ids):
            self._take(output)
        self._before = None
        return self.finish_reason is not None and output.finish_reason is None

    def end(self, finish_reason: str) -> None:
        """Finish, with the text that was held back."""
        self._begin()
        self._end(finish_reason, None)
        self._before = None

    def cut(self, finish_reason: str) -> None:
        """Finish with what was let out so far, where more text cannot be made."""
        self.mend()
        self.has_news = True
        self.finish_reason = finish_reason

    def mend(self) -> None:
        """Go back to where a ``take`` or ``end`` began that was broken off, if one was."""
        before = self._before
        if before is None:
            return
        del self.token_ids[before.num_tokens :]
        self._text = before.text
        if self._logprobs is not None:
            del self._logprobs[before.num_logprobs :]
        self._cumulative = before.cumulative
        if self._detokenizer is not None and before.detokenizer is not None:
            self._detokenizer.restore(before.detokenizer)
        self.finish_reason = self.stop_reason = None
        self._before = None

    def _begin(self) -> None:
        self.mend()
        if self.finish_reason is None:
            self._before = _Before(
                len(self.token_ids),
                self._text,
                len(self._logprobs or ()),
                self._cumulative,
                self._detokenizer.state() if self._detokenizer else None,
            )

    def _take(self, output: CoreOutput) -> None:
        tokens = output.new_token_ids
        for place, token in enumerate(tokens):
            self.token_ids.append(token)
            self.has_news = True
            # A token that ended the sequence is no part of its text.
            ending = output.finish_reason == "stop" and place == len(tokens) - 1
            if ending and not self._params.include_stop_str_in_output:
                continue
            if self._append_text(self._detokenizer.push(token) if self._detokenizer else ""):
                self._take_logprobs(output, place + 1)
                return
        self._take_logprobs(output, len(tokens))
        if output.finish_reason is not None:
            self._end(output.finish_reason, output.stop_reason)

    def _end(self, finish_reason: str, stop_reason: int | str | None) -> None:
        self.has_news = True
        rest = self._detokenizer.finish() if self._detokenizer else ""
        if not self._append_text(rest):
            self.finish_reason = finish_reason
            self.stop_reason = stop_reason

    def make_output(self, *, delta: bool) -> CompletionOutput:
        """Return everything so far, or with ``delta`` what ``mark_sent`` has not seen."""
        token_start, text_start = (self._sent_tokens, self._sent_text) if delta else (0, 0)
        logprobs = None if self._logprobs is None else self._logprobs[token_start:]
        return CompletionOutput(
            index=self.index,
            text=self._text[text_start : self._certain_text()],
            token_ids=self.token_ids[token_start:],
            cumulative_logprob=None if self._logprobs is None else self._cumulative,
            logprobs=logprobs,
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
            lora_request=self._lora_request,
        )

    def mark_sent(self) -> None:
        """Remember that what there is was let out."""
        self.has_news = False
        self._sent_tokens = len(self.token_ids)
        self._sent_text = self._certain_text()

    def _append_text(self, new: str) -> bool:
        """Append text; return whether a stop string ended it."""
        if not new:
            return False
        before = len(self._text)
        self._text += new
        # Of the tokens that min_tokens demands, none may end the text.
        if not self._stops.strings or len(self.token_ids) <= self._params.min_tokens:
            return False
        hit = self._stops.find(self._text, before)
        if hit is None:
            return False
        length, self.stop_reason = hit
        self._text = self._text[:length]
        self.finish_reason = "stop"
        return True

    def _certain_text(self) -> int:
        if self.finish_reason is not None:
            return len(self._text)
        return len(self._text) - self._stops.undecided(self._text)

    def _take_logprobs(self, output: CoreOutput, count: int) -> None:
        if self._logprobs is None or output.logprobs is None:
            return
        taken = output.logprobs[:count]
        self._logprobs += make_logprobs(taken, self._decoder)
        self._cumulative += float(taken.logprobs[:, 0].sum(dtype="float64"))
