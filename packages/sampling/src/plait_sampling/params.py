"""SamplingParams: how the tokens of one request are chosen, when it ends, what it returns."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

from plait_kernels.errors import InputError
from plait_sampling import checks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plait_sampling.checks import Check

GREEDY_BELOW = 1e-5
"""A temperature below this is greedy and is kept as 0."""

REFUSED = {
    "best_of": "Ask for n completions and pick one by its cumulative_logprob.",
    "use_beam_search": "Beam search is a method of LLM, not a way of sampling.",
    "length_penalty": "It belongs to beam search, which is a method of LLM.",
    "early_stopping": "It belongs to beam search, which is a method of LLM.",
    "guided_decoding": "Structured output is not part of this version; leave it out.",
    "logits_processors": "Use logit_bias or allowed_token_ids instead.",
    "truncate_prompt_tokens": "Shorten the prompt before the call.",
    "flat_logprobs": "Logprobs are lists of dicts here; leave it out.",
    "thinking_token_budget": "Bound the whole output with max_tokens.",
    "repetition_detection": "Use repetition_penalty, or stop.",
}
"""Keywords that other engines know and this version refuses, with what to do instead."""


class RequestOutputKind(Enum):
    """What each output of a running request holds."""

    CUMULATIVE = 0
    """Everything generated so far."""
    DELTA = 1
    """What is new since the previous output."""
    FINAL_ONLY = 2
    """Nothing before the request is finished, then everything."""


def _temperature(field: str, value: Any) -> float:
    temperature: float = checks.number(0.0, 2.0)(field, value)
    return 0.0 if temperature < GREEDY_BELOW else temperature


def _top_k(field: str, value: Any) -> int:
    top_k: int = checks.integer(-1)(field, value)
    return max(0, top_k)


def _seed(field: str, value: Any) -> int | None:
    # vLLM's users write -1 for "no seed".
    if value is None or (value == -1 and not isinstance(value, bool)):
        return None
    seed: int = checks.integer(-(2**63), 2**63 - 1)(field, value)
    return seed


def _output_kind(field: str, value: Any) -> RequestOutputKind:
    try:
        return RequestOutputKind(value)
    except ValueError:
        allowed = ", ".join(f"RequestOutputKind.{kind.name}" for kind in RequestOutputKind)
        raise checks.refuse(field, value, allowed, "Pass one of them.") from None


def _unknown(name: str) -> InputError:
    if name in REFUSED:
        return InputError(f"SamplingParams does not support {name}. {REFUSED[name]}")
    known = [field.name for field in dataclasses.fields(SamplingParams)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}."
    return InputError(f"SamplingParams got an unknown keyword, {name}; {hint}")


def _field(default: Any, check: Check) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})


@dataclass
class SamplingParams:
    """How one request is sampled.

    Every value is checked when it is set, at construction and afterwards; an unknown name is an
    error that says which known one is nearest.

    Parameters
    ----------
    n : int, default 1
        Completions of the prompt. Completion i draws with seed + i.
    presence_penalty, frequency_penalty : float, default 0
        -2 to 2. Subtracted from the logits of tokens in the output: once, and once per occurrence.
    repetition_penalty : float, default 1
        Above 0. Divides positive and multiplies negative logits of tokens in prompt and output.
    temperature : float, default 1
        0 to 2; below 1e-5 is greedy and is kept as 0.
    top_p : float, default 1
        Above 0, at most 1: draw from the smallest set of best tokens with this much probability.
    top_k : int, default 0
        Draw from the k best tokens; 0 and -1 = all.
    min_p : float, default 0
        0 to 1: drop tokens less probable than this times the best one.
    seed : int | None
        Makes the draws repeatable. None (or -1) = the engine picks one.
    stop : str | list[str] | None
        End where one of these appears in the text. Kept as a list.
    stop_token_ids : list[int] | None
        End after one of these tokens. Kept as a list.
    ignore_eos : bool, default False
        Go on after the end-of-sequence token.
    max_tokens : int | None, default 16
        Output tokens at most; None = as many as the context has room for.
    min_tokens : int, default 0
        Neither end-of-sequence nor a stop token is drawn before so many output tokens.
    logprobs, prompt_logprobs : int | None
        Return the k best tokens of each position and the token itself; -1 = the whole vocabulary.
    detokenize : bool, default True
        Whether to make text. ``stop`` needs it.
    skip_special_tokens, spaces_between_special_tokens : bool, default True
        How special tokens appear in the text.
    include_stop_str_in_output : bool, default False
        Keep the stop string at the end of the text.
    output_kind : RequestOutputKind, default CUMULATIVE
    logit_bias : dict[int, float] | None
        Added to the logits of these tokens.
    allowed_token_ids : list[int] | None
        Draw none but these tokens.
    structured_outputs, bad_words, extra_args
        Known, and refused in this version when set.

    Raises
    ------
    InputError
        A value out of its range or of the wrong type, fields that contradict each other, or an
        unknown name.

    Examples
    --------
    >>> SamplingParams(temperature=0.8, top_k=5, max_tokens=32).top_k
    5
    """

    n: int = _field(1, checks.integer(1))
    _: KW_ONLY
    presence_penalty: float = _field(0.0, checks.number(-2.0, 2.0))
    frequency_penalty: float = _field(0.0, checks.number(-2.0, 2.0))
    repetition_penalty: float = _field(1.0, checks.number(0.0, float("inf"), above=True))
    temperature: float = _field(1.0, _temperature)
    top_p: float = _field(1.0, checks.number(0.0, 1.0, above=True))
    top_k: int = _field(0, _top_k)
    min_p: float = _field(0.0, checks.number(0.0, 1.0))
    seed: int | None = _field(None, _seed)
    stop: str | Sequence[str] | None = _field(None, checks.stop_strings)
    stop_token_ids: Sequence[int] | None = _field(None, checks.token_ids)
    ignore_eos: bool = _field(False, checks.flag)
    max_tokens: int | None = _field(16, checks.optional(checks.integer(1)))
    min_tokens: int = _field(0, checks.integer(0))
    logprobs: int | None = _field(None, checks.logprob_count)
    prompt_logprobs: int | None = _field(None, checks.logprob_count)
    detokenize: bool = _field(True, checks.flag)
    skip_special_tokens: bool = _field(True, checks.flag)
    spaces_between_special_tokens: bool = _field(True, checks.flag)
    include_stop_str_in_output: bool = _field(False, checks.flag)
    output_kind: RequestOutputKind = dataclasses.field(
        default=RequestOutputKind.CUMULATIVE, metadata={"check": _output_kind}
    )
    structured_outputs: None = _field(None, checks.unsupported)
    logit_bias: Mapping[int, float] | None = _field(None, checks.logit_bias)
    allowed_token_ids: Sequence[int] | None = _field(None, checks.allowed_token_ids)
    bad_words: Sequence[str] | None = _field(None, checks.unsupported)
    extra_args: Mapping[str, object] | None = _field(None, checks.unsupported)

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        # Before __init__, whose own TypeError for an unknown keyword would name no known one.
        known = cls.__dataclass_fields__
        for name in kwargs:
            if name not in known:
                raise _unknown(name)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        self.validate()

    def __setattr__(self, name: str, value: object) -> None:
        field = type(self).__dataclass_fields__.get(name)
        if field is None:
            raise _unknown(name)
        super().__setattr__(name, field.metadata["check"](name, value))

    def validate(self) -> None:
        """Check the fields against each other.

        Raises
        ------
        InputError
            ``stop`` without ``detokenize``, or ``min_tokens`` above ``max_tokens``.
        """
        if self.stop and not self.detokenize:
            message = (
                f"stop needs detokenize: got stop={self.stop!r} with detokenize=False; "
                "set detokenize=True or use stop_token_ids."
            )
            raise InputError(message)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            message = (
                f"min_tokens is above max_tokens: got {self.min_tokens} and {self.max_tokens}; "
                "allowed: min_tokens <= max_tokens. Lower one or raise the other."
            )
            raise InputError(message)

    def validate_tokens(self, vocab_size: int, eos_token_ids: Sequence[int] = ()) -> None:
        """Check the token ids whose logits the fields change against a model.

        ``stop_token_ids`` may name tokens that the model does not have: they are never drawn.

        Parameters
        ----------
        vocab_size : int
            Ids from 0 up to this exist.
        eos_token_ids : Sequence[int]
            The model's end-of-sequence tokens.

        Raises
        ------
        InputError
            An id outside the vocabulary; or ``allowed_token_ids`` that ``min_tokens`` forbids.
        """
        for name in ("allowed_token_ids", "logit_bias"):
            for token in getattr(self, name) or ():
                if token >= vocab_size:
                    allowed = f"token ids from 0 to {vocab_size - 1}"
                    raise checks.refuse(name, token, allowed, "Use ids of this model's tokenizer.")
        ending = self.stop_tokens.union(eos_token_ids)
        if self.min_tokens and self.allowed_token_ids and ending.issuperset(self.allowed_token_ids):
            message = (
                f"allowed_token_ids={list(self.allowed_token_ids)} holds only tokens that end the "
                f"output, and min_tokens={self.min_tokens} forbids those; "
                "allow another token or set min_tokens=0."
            )
            raise InputError(message)

    @property
    def greedy(self) -> bool:
        """Whether every draw takes the best token."""
        return self.temperature == 0.0

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """``stop`` as kept: no None, no bare string."""
        return tuple(self.stop or ())

    @property
    def stop_tokens(self) -> frozenset[int]:
        """``stop_token_ids`` as a set."""
        return frozenset(self.stop_token_ids or ())

    def clone(self) -> Self:
        """Copy, so that later changes of one leave the other alone."""
        return type(self).from_dict(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, as plain data."""
        plain: dict[str, Any] = {}
        default = type(self)()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != getattr(default, field.name):
                plain[field.name] = value.value if isinstance(value, Enum) else value
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Make the parameters that ``to_dict`` described."""
        return cls(**plain)

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> Self:
        """Take the defaults that a model ships in its ``generation_config.json``.

        Parameters
        ----------
        config : Mapping[str, Any]
            The file's content. Used: temperature, top_k, top_p, min_p, repetition_penalty and
            max_new_tokens; None counts as absent.
        """
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        values = {name: config[name] for name in names if config.get(name) is not None}
        if config.get("max_new_tokens") is not None:
            values["max_tokens"] = config["max_new_tokens"]
        return cls(**values)
