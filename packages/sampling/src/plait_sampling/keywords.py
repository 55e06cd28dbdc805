"""Keywords of SamplingParams that are known and not served, with the values that may pass."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from plait_kernels.arguments import asks_for_nothing, shown
from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Unserved:
    """A keyword that this version does not serve.

    Attributes
    ----------
    remedy : str
        What to do instead.
    neutral : tuple
        Values that ask for nothing, beside None, False and what is empty.
    """

    remedy: str
    neutral: tuple[Any, ...] = ()


_ITSELF = "The engine finds it out; leave it out."

UNSERVED: Mapping[str, Unserved] = MappingProxyType(
    {
        "watermarking": Unserved("No watermark is written here; leave it out."),
        "prompt_logprob_token_ids": Unserved("Ask for prompt_logprobs=-1 and pick the tokens."),
        "prompt_logprob_start": Unserved("Ask for prompt_logprobs and drop the first ones."),
        "logprob_token_ids": Unserved("Ask for logprobs=-1 and pick the tokens."),
        "flat_logprobs": Unserved("Logprobs are lists of dicts here; leave it out."),
        "stream_interval": Unserved("Every step with a new token gives an output.", (1,)),
        "structured_outputs": Unserved("Structured output is not part of this version."),
        "extra_args": Unserved("Nothing here reads them; leave it out."),
        "bad_words": Unserved("Use logit_bias for words of one token, or stop."),
        "skip_reading_prefix_cache": Unserved("Give the prompt a cache_salt of its own."),
        "thinking_token_budget": Unserved("Bound the whole output with max_tokens.", (-1,)),
        "repetition_detection": Unserved("Use repetition_penalty, or stop."),
        "routed_experts_prompt_start": Unserved("No served model has experts.", (0,)),
        "trace_decode_token_ids": Unserved(
            "Put the tokens into the prompt and ask for its logprobs."
        ),
    }
)
"""Fields of vLLM's SamplingParams."""

ELSEWHERE: Mapping[str, Unserved] = MappingProxyType(
    {
        "output_text_buffer_length": Unserved(_ITSELF, (0,)),
        "_eos_token_id": Unserved(_ITSELF),
        "_all_stop_token_ids": Unserved(_ITSELF),
        "_watermarking_skipped": Unserved(_ITSELF),
        "_bad_words_token_ids": Unserved(_ITSELF),
        "best_of": Unserved("Ask for n completions and pick one by its cumulative_logprob.", (1,)),
        "use_beam_search": Unserved("Beam search is a method of LLM, not a way of sampling."),
        "length_penalty": Unserved("It belongs to beam search, a method of LLM.", (1.0,)),
        "early_stopping": Unserved("It belongs to beam search, which is a method of LLM."),
        "guided_decoding": Unserved("Structured output is not part of this version; leave it out."),
        "logits_processors": Unserved("Use logit_bias or allowed_token_ids instead."),
        "truncate_prompt_tokens": Unserved("Shorten the prompt before the call."),
    }
)
"""What vLLM keeps for itself in its SamplingParams, and keywords of older versions: no fields."""


def refuse_unserved(name: str, value: Any, keyword: Unserved) -> None:
    """Refuse a value that asks for something.

    Raises
    ------
    InputError
        The value asks for something.
    """
    if not asks_for_nothing(value, keyword.neutral):
        allowed = ", ".join(map(repr, (None, *keyword.neutral)))
        message = (
            f"SamplingParams does not support {name}: got {shown(value)}, allowed: {allowed}. "
            f"{keyword.remedy}"
        )
        raise InputError(message)
