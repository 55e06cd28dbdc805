"""What a caller gets back: RequestOutput, and a CompletionOutput for each of its completions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plait_kernels.errors import PlaitError
    from plait_lora.request import LoRARequest


@dataclass(frozen=True)
class Logprob:
    """One token's logprob at one position.

    Attributes
    ----------
    logprob : float
        Natural logarithm, of the raw logits.
    rank : int | None
        1 = the most probable.
    decoded_token : str | None
        The token alone as text; None without a tokenizer or with ``detokenize=False``.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class RequestMetrics:
    """When things happened to a request, in seconds since the epoch; None = not (yet).

    Attributes
    ----------
    arrival_time : float
        The front took the request.
    queued_ts : float | None
        The core took it.
    scheduled_ts : float | None
        Its first tokens were scheduled.
    first_token_ts, last_token_ts : float | None
        Its first and its newest output token were there.
    num_preemptions : int
        How often it lost its memory to others and started over.
    num_generation_tokens : int
        Output tokens of all its completions.
    """

    arrival_time: float
    queued_ts: float | None = None
    scheduled_ts: float | None = None
    first_token_ts: float | None = None
    last_token_ts: float | None = None
    num_preemptions: int = 0
    num_generation_tokens: int = 0

    @property
    def first_token_latency(self) -> float:
        """Seconds from ``arrival_time`` to the first token; 0 = it is not there yet."""
        return 0.0 if self.first_token_ts is None else self.first_token_ts - self.arrival_time


@dataclass
class CompletionOutput:
    """One completion of a prompt.

    Attributes
    ----------
    index : int
        Which of the n completions.
    text : str
        Empty with ``detokenize=False``.
    token_ids : list[int]
    cumulative_logprob : float | None
        Sum over all output tokens; None unless ``logprobs`` was asked for.
    logprobs : list[dict[int, Logprob]] | None
        For each of ``token_ids``: the token itself first, then the best ones.
    finish_reason : str | None
        "stop", "length", "abort" or "error"; None while it runs.
    stop_reason : int | str | None
        The stop string or stop token that ended it; None for end-of-sequence.
    lora_request : LoRARequest | None
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    lora_request: LoRARequest | None = None

    def finished(self) -> bool:
        """Return whether no more tokens will come."""
        return self.finish_reason is not None

    @property
    def routed_experts(self) -> None:
        """None: no served model has experts."""


@dataclass
class RequestOutput:
    """What one prompt has given so far.

    Attributes
    ----------
    request_id : str
    prompt : str | None
        None if the prompt was given as token ids alone.
    prompt_token_ids : list[int]
    prompt_logprobs : list[dict[int, Logprob] | None] | None
        One entry a prompt token; the first is None, as nothing precedes it.
    outputs : list[CompletionOutput]
        With ``output_kind`` DELTA, only what is new.
    finished : bool
        Whether all completions are.
    metrics : RequestMetrics | None
    lora_request : LoRARequest | None
    num_cached_tokens : int
        Prompt tokens whose KV was taken from the prefix cache.
    error : PlaitError | None
        Why the request failed; its completions then have finish_reason "error".
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics | None = field(default=None, repr=False)
    lora_request: LoRARequest | None = None
    num_cached_tokens: int = 0
    error: PlaitError | None = None

    @property
    def encoder_prompt(self) -> None:
        """None: no encoder-decoder model is served."""

    @property
    def encoder_prompt_token_ids(self) -> None:
        """None: no encoder-decoder model is served."""

    @property
    def kv_transfer_params(self) -> None:
        """None: the KV cache stays in its engine."""
