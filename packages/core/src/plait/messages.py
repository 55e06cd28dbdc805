"""What the front and the engine core say to each other: plain data that can be serialised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait_kernels import errors

if TYPE_CHECKING:
    from plait_lora.request import LoRARequest
    from plait_sampling.params import SamplingParams
    from plait_sampling.token_logprobs import TokenLogprobs


_LONGEST_REASON = 500
"""Characters of a foreign error that a message repeats."""


@dataclass(frozen=True)
class CoreRequest:
    """One sequence to generate; a request with n > 1 is n of these.

    Attributes
    ----------
    request_id : str
        The front's own name for it, never used twice; what users call a request stays in the front.
    prompt_token_ids : tuple[int, ...]
    params : SamplingParams
        ``n`` and ``stop`` are the front's business and ignored here.
    seed : int
        Of this sequence's draws.
    eos_token_ids : tuple[int, ...]
        Tokens that end it, unless ``params.ignore_eos``.
    arrival_time : float
        Seconds since the epoch.
    lora : LoRARequest | None
    priority : int
        Smaller is served earlier.
    cache_salt : str | None
        Requests share cached prefixes only within one salt.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    params: SamplingParams
    seed: int
    eos_token_ids: tuple[int, ...]
    arrival_time: float
    lora: LoRARequest | None = None
    priority: int = 0
    cache_salt: str | None = None


@dataclass(frozen=True)
class ErrorInfo:
    """An error as data: the name of its class in ``plait_kernels.errors``, and its message."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: errors.PlaitError) -> ErrorInfo:
        """Describe ``error``."""
        return cls(type(error).__name__, str(error))

    @classmethod
    def of_fault(
        cls, error: BaseException, what: str, kind: type[errors.PlaitError] = errors.PlaitError
    ) -> ErrorInfo:
        """Describe any error that a request's own data raised.

        Parameters
        ----------
        error : BaseException
            One of plait's own describes itself.
        what : str
            What cannot be done.
        kind : type[PlaitError]
            What the request fails with.
        """
        if isinstance(error, errors.PlaitError):
            return cls.of(error)
        reason = str(error)
        if len(reason) > _LONGEST_REASON:
            reason = reason[:_LONGEST_REASON] + "…"
        return cls(kind.__name__, f"{what}: {type(error).__name__}: {reason}")

    def to_error(self) -> errors.PlaitError:
        """Make the error again."""
        kind = getattr(errors, self.kind, errors.PlaitError)
        error: errors.PlaitError = kind(self.message)
        return error


@dataclass(frozen=True)
class CoreEvents:
    """When things happened to a request, in seconds since the epoch; None = not yet."""

    queued_ts: float
    scheduled_ts: float | None
    first_token_ts: float | None
    last_token_ts: float | None
    num_preemptions: int


@dataclass(frozen=True)
class CoreOutput:
    """What one step gave one request.

    Attributes
    ----------
    request_id : str
    new_token_ids : tuple[int, ...]
        0..k tokens.
    start : int
        Output tokens that the request had before them, so that an output that comes twice is
        known.
    logprobs : TokenLogprobs | None
        Of the new tokens.
    prompt_logprobs : TokenLogprobs | None
        Of prompt tokens 1.., all at once when the prompt is done.
    finish_reason : str | None
        "stop", "length", "abort" or "error"; None while it runs.
    stop_reason : int | str | None
        The stop token, where one of ``stop_token_ids`` ended it.
    error : ErrorInfo | None
    num_cached_tokens : int
        Prompt tokens taken from the prefix cache.
    events : CoreEvents | None
    """

    request_id: str
    new_token_ids: tuple[int, ...] = ()
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: TokenLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    error: ErrorInfo | None = None
    num_cached_tokens: int = 0
    events: CoreEvents | None = None
    start: int = 0
