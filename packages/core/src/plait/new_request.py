"""NewRequest: a request that has been checked and tokenized, and is not in the engine yet."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plait.prompts import ParsedPrompt, parse_prompt, validate_token_ids
from plait.text_encoder import check_unicode
from plait_kernels.arguments import shown
from plait_kernels.errors import InputError
from plait_lora.request import LoRARequest
from plait_sampling.params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait.engine_core import CoreInfo
    from plait.prompts import Prompt
    from plait.text_encoder import TextEncoder


_MOST_COPIES = 1 << 26
"""Prompt tokens of all completions of a request: half a gigabyte."""


@dataclass(frozen=True)
class NewRequest:
    """Everything that the engine needs of a request, known to be good.

    Attributes
    ----------
    request_id : str
    text : str | None
    token_ids : Sequence[int]
    cache_salt : str | None
    params : SamplingParams
    lora_request : LoRARequest | None
    arrival_time : float
        Seconds since the epoch.
    priority : int
    """

    request_id: str
    text: str | None
    token_ids: Sequence[int]
    cache_salt: str | None
    params: SamplingParams
    lora_request: LoRARequest | None
    arrival_time: float
    priority: int


@dataclass(frozen=True)
class RequestMaker:
    """Checks and tokenizes requests. It changes nothing, and may be used in any thread.

    Attributes
    ----------
    encoder : TextEncoder | None
        None: prompts are token ids.
    info : CoreInfo
    eos_token_ids : tuple[int, ...]
    max_logprobs : int
        Most logprobs that a request may ask for a token; -1 = the whole vocabulary.
    """

    encoder: TextEncoder | None
    info: CoreInfo
    eos_token_ids: tuple[int, ...]
    max_logprobs: int = -1

    def make(
        self,
        request_id: str,
        prompt: Prompt | ParsedPrompt,
        params: SamplingParams,
        arrival_time: float | None,
        lora_request: LoRARequest | None,
        priority: int,
    ) -> NewRequest:
        """Make a request; parameters and errors are those of ``LLMEngine.add_request``."""
        arrival_time = time.time() if arrival_time is None else _finite(arrival_time)
        _check_id(request_id)
        _check_types(params, lora_request)
        priority = whole("priority", priority)
        parsed = prompt if isinstance(prompt, ParsedPrompt) else parse_prompt(prompt)
        if parsed.cache_salt is not None:
            check_unicode("cache_salt", parsed.cache_salt)
        token_ids = self._token_ids(parsed)
        validate_token_ids(token_ids, self.info.vocab_size, self.info.max_model_len)
        params.validate_tokens(self.info.vocab_size, self.eos_token_ids, self.max_logprobs)
        _check_copies(params.n, len(token_ids))
        return NewRequest(
            request_id,
            parsed.text,
            token_ids,
            parsed.cache_salt,
            params,
            lora_request,
            arrival_time,
            priority,
        )

    def _token_ids(self, prompt: ParsedPrompt) -> list[int]:
        if prompt.token_ids is not None:
            return prompt.token_ids
        if self.encoder is None:
            text = (
                "the prompt is text and the engine has no tokenizer: it was made with "
                "skip_tokenizer_init=True. Pass token ids"
            )
            raise InputError(text)
        assert prompt.text is not None, "a prompt has text or tokens"
        return self.encoder.encode(prompt.text)


def _check_copies(n: int, prompt_length: int) -> None:
    """Bound what the completions of one request take: each holds the prompt's tokens."""
    if n > 1 and n * prompt_length > _MOST_COPIES:
        text = (
            f"n={n} completions of a prompt of {prompt_length} tokens are too many at once: "
            f"got {n * prompt_length} tokens in all, allowed: {_MOST_COPIES}. Ask for fewer, or in "
            "several requests"
        )
        raise InputError(text)


def _check_id(request_id: Any) -> None:
    if not isinstance(request_id, str):
        text = f"request_id must be a str, got {shown(request_id)}: write str(…)"
        raise InputError(text)


def _check_types(params: Any, lora_request: Any) -> None:
    if not isinstance(params, SamplingParams):
        text = f"params must be SamplingParams, got {type(params).__name__}"
        raise InputError(text)
    if lora_request is not None:
        check_handle(lora_request)


def check_handle(lora_request: Any) -> None:
    """Raise InputError for what is no ``LoRARequest``."""
    if not isinstance(lora_request, LoRARequest):
        text = (
            f"lora_request must be a LoRARequest, got {type(lora_request).__name__}: write "
            "LoRARequest(name, id, path)"
        )
        raise InputError(text)


def whole(name: str, value: Any) -> int:
    """Return a whole number, of Python's or NumPy's, as an int; raise InputError for others."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        text = f"{name} must be a whole number, got {shown(value)}"
        raise InputError(text)
    return int(value)


def id_list(request_ids: Any) -> list[str]:
    """Return one request id, or several, as a list; raise InputError for what is neither."""
    ids = [request_ids] if isinstance(request_ids, str) else request_ids
    if isinstance(ids, Iterable):
        ids = list(ids)
        if all(isinstance(name, str) for name in ids):
            return ids
    text = f"request_ids must be a str or several of them, got {shown(request_ids)}"
    raise InputError(text)


def _finite(value: Any) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with suppress(OverflowError):
            if math.isfinite(seconds := float(value)):
                return seconds
    text = (
        f"arrival_time must be a finite number of seconds since the epoch, got "
        f"{shown(value)}; None = now"
    )
    raise InputError(text)
