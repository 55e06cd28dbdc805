"""SamplingParams: how the tokens of one request are chosen, when it ends, what it returns."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from plait_kernels.arguments import shown
from plait_kernels.errors import InputError
from plait_sampling import checks
from plait_sampling.keywords import ELSEWHERE, UNSERVED, refuse_unserved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plait_sampling.checks import Check

GENERATION_DEFAULTS = MappingProxyType(
    {
        "repetition_penalty": "repetition_penalty",
        "presence_penalty": "presence_penalty",
        "frequency_penalty": "frequency_penalty",
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "max_new_tokens": "max_tokens",
        "skip_special_tokens": "skip_special_tokens",
    }
)
"""Keys of a generation config that are defaults of sampling, and the fields that they set."""

MAX_COMPLETIONS = 16384
"""The largest ``n``."""


class RequestOutputKind(Enum):
    """What each output of a running request holds."""

    CUMULATIVE = 0
    """Everything generated so far."""
    DELTA = 1
    """What is new since the previous output."""
    FINAL_ONLY = 2
    """Nothing before the request is finished, then everything."""


def _output_kind(field: str, value: Any) -> RequestOutputKind:
    for kind in RequestOutputKind:
        if value is kind or (checks.is_integer(value) and value == kind.value):
            return kind
    allowed = ", ".join(f"RequestOutputKind.{kind.name}" for kind in RequestOutputKind)
    raise checks.refuse(field, value, allowed, "Pass one of them.")


def _unknown(name: str) -> InputError:
    fields = [field.name for field in dataclasses.fields(SamplingParams)]
    known = [name for name in fields if name not in UNSERVED]
    near = difflib.get_close_matches(name[:80], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"allowed: {', '.join(known)}."
    return InputError(f"SamplingParams got an unknown keyword, {shown(name)}; {hint}")


def _field(default: Any, check: Check) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})


def _unserved(name: str, default: Any = None) -> Any:
    """Make a field that takes what asks for nothing, and is kept as its default."""

    def check(field: str, value: Any) -> Any:
        refuse_unserved(name, value, UNSERVED[name])
        return default

    return _field(default, check)


def _knows_other_keywords(cls: type[SamplingParams]) -> type[SamplingParams]:
    """Let the class take the neutral values of keywords that are no fields of it."""
    written = cls.__init__

    @functools.wraps(written)
    def __init__(self: SamplingParams, *args: Any, **keywords: Any) -> None:
        for name in keywords.keys() - cls.__dataclass_fields__.keys():
            if name not in ELSEWHERE:
                raise _unknown(name)
            refuse_unserved(name, keywords.pop(name), ELSEWHERE[name])
        written(self, *args, **keywords)

    cls.__init__ = __init__  # type: ignore[method-assign]
    return cls


@_knows_other_keywords
@dataclass
class SamplingParams:
    """How one request is sampled.

    Every value is checked when it is set, at construction and afterwards; an unknown name is an
    error that says which known one is nearest. Fields that may be given by place stand in vLLM's
    order. NumPy's numbers are as good as Python's; a bool is no number.

    Parameters
    ----------
    n : int, default 1
        Completions of the prompt, at most 16384. Completion i draws with seed + i.
    presence_penalty, frequency_penalty : float, default 0
        -2 to 2. Subtracted from the logits of tokens in the output: once, and once per occurrence.
    repetition_penalty : float, default 1
        1e-6 to 1e6. Divides positive and multiplies negative logits of tokens in prompt and output.
    temperature : float, default 1
        0 to 2; below 1e-5 is greedy and is kept as 0. Greedy parameters are made with top_p=1,
        top_k=0 and min_p=0.
    top_p : float, default 1
        Above 0, at most 1: draw from the smallest set of best tokens with this much probability.
    top_k : int, default 0
        Draw from the k best tokens; 0 and -1 = all.
    min_p : float, default 0
        0 to 1: drop tokens less probable than this times the best one.
    seed : int | None
        Makes the draws repeatable: a draw depends on the seed and on the position of its token,
        and on nothing else. Prompts of the same length that share one seeded SamplingParams
        therefore draw the same random numbers, in vLLM and here; for independent ones give each
        prompt a seed of its own. None (or -1) = the engine picks one for each request.
    stop : str | list[str] | None
        End where one of these appears in the text. Kept as a list.
    stop_token_ids : list[int] | None
        End after one of these tokens. Kept as a list, each token once.
    ignore_eos : bool, default False
        Go on after the end-of-sequence token.
    max_tokens : int | None, default 16
        Output tokens at most; None = as many as the context has room for.
    min_tokens : int, default 0
        Neither end-of-sequence nor a stop token is drawn before so many output tokens.
    logprobs, prompt_logprobs : int | None
        Return the k best tokens of each position and the token itself; -1 = the whole vocabulary,
        True = 1. ``LLM(max_logprobs=…)`` may cap k.
    detokenize : bool, default True
        Whether to make text. ``stop`` needs it.
    skip_special_tokens, spaces_between_special_tokens : bool, default True
        How special tokens appear in the text.
    include_stop_str_in_output : bool, default False
        Keep the stop string at the end of the text.
    output_kind : RequestOutputKind, default CUMULATIVE
    logit_bias : dict[int, float] | None
        Added to the logits of these tokens: -1e20 to 1e20.
    allowed_token_ids : list[int] | None
        Draw none but these tokens.
    skip_clone : bool, default False
        Without effect: ``clone`` always copies.
    watermarking, flat_logprobs, stream_interval, structured_outputs, extra_args, bad_words
        vLLM's, as the next three lines. A value that asks for something is refused.
    prompt_logprob_token_ids, prompt_logprob_start, logprob_token_ids, trace_decode_token_ids
        Refused.
    skip_reading_prefix_cache, thinking_token_budget, repetition_detection
        Refused.
    routed_experts_prompt_start
        Refused.

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

    n: int = _field(1, checks.integer(1, MAX_COMPLETIONS))
    presence_penalty: float = _field(0.0, checks.number(-2.0, 2.0))
    frequency_penalty: float = _field(0.0, checks.number(-2.0, 2.0))
    repetition_penalty: float = _field(
        1.0, checks.number(1 / checks.PENALTY_LIMIT, checks.PENALTY_LIMIT)
    )
    temperature: float = _field(1.0, checks.temperature)
    watermarking: bool | None = _unserved("watermarking")
    top_p: float = _field(1.0, checks.number(0.0, 1.0, above=True))
    top_k: int = _field(0, checks.top_k)
    min_p: float = _field(0.0, checks.number(0.0, 1.0))
    seed: int | None = _field(None, checks.seed)
    stop: str | Sequence[str] | None = _field(None, checks.stop_strings)
    stop_token_ids: Sequence[int] | None = _field(None, checks.token_ids)
    ignore_eos: bool = _field(False, checks.flag)
    max_tokens: int | None = _field(16, checks.optional(checks.integer(1)))
    min_tokens: int = _field(0, checks.integer(0))
    logprobs: int | None = _field(None, checks.logprob_count)
    prompt_logprobs: int | None = _field(None, checks.logprob_count)
    prompt_logprob_token_ids: Sequence[Sequence[int]] | None = _unserved("prompt_logprob_token_ids")
    prompt_logprob_start: int | None = _unserved("prompt_logprob_start")
    logprob_token_ids: Sequence[int] | None = _unserved("logprob_token_ids")
    flat_logprobs: bool = _unserved("flat_logprobs", default=False)
    detokenize: bool = _field(True, checks.flag)
    skip_special_tokens: bool = _field(True, checks.flag)
    spaces_between_special_tokens: bool = _field(True, checks.flag)
    include_stop_str_in_output: bool = _field(False, checks.flag)
    output_kind: RequestOutputKind = dataclasses.field(
        default=RequestOutputKind.CUMULATIVE, metadata={"check": _output_kind}
    )
    stream_interval: int | None = _unserved("stream_interval")
    skip_clone: bool = _field(False, checks.flag)
    _: KW_ONLY
    structured_outputs: object = _unserved("structured_outputs")
    logit_bias: Mapping[int, float] | None = _field(None, checks.logit_bias)
    allowed_token_ids: Sequence[int] | None = _field(None, checks.allowed_token_ids)
    extra_args: Mapping[str, Any] | None = _unserved("extra_args")
    bad_words: Sequence[str] | None = _unserved("bad_words")
    skip_reading_prefix_cache: bool | None = _unserved("skip_reading_prefix_cache")
    thinking_token_budget: int | None = _unserved("thinking_token_budget")
    repetition_detection: object = _unserved("repetition_detection")
    routed_experts_prompt_start: int = _unserved("routed_experts_prompt_start", default=0)
    trace_decode_token_ids: Sequence[int] | None = _unserved("trace_decode_token_ids")

    def __post_init__(self) -> None:
        if self.greedy:
            self.top_p, self.top_k, self.min_p = 1.0, 0, 0.0
        self.validate()

    def __setattr__(self, name: str, value: object) -> None:
        field = type(self).__dataclass_fields__.get(name)
        if field is None:
            if name not in ELSEWHERE:
                raise _unknown(name)
            refuse_unserved(name, value, ELSEWHERE[name])
            return
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
                f"stop needs detokenize: got stop={shown(self.stop)} with detokenize=False; "
                "set detokenize=True or use stop_token_ids."
            )
            raise InputError(message)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            message = (
                f"min_tokens is above max_tokens: got {self.min_tokens} and {self.max_tokens}; "
                "allowed: min_tokens <= max_tokens. Lower one or raise the other."
            )
            raise InputError(message)

    def validate_tokens(
        self, vocab_size: int, eos_token_ids: Sequence[int] = (), max_logprobs: int = -1
    ) -> None:
        """Check the fields against a model and its engine.

        ``stop_token_ids`` may name tokens that the model does not have: they are never drawn.

        Parameters
        ----------
        vocab_size : int
            Ids from 0 up to this exist.
        eos_token_ids : Sequence[int]
            The model's end-of-sequence tokens.
        max_logprobs : int
            The most logprobs a token that the engine gives; -1 = no cap.

        Raises
        ------
        InputError
            An id outside the vocabulary; ``min_tokens`` that leave no token to draw; more logprobs
            than ``max_logprobs``.
        """
        for name in ("allowed_token_ids", "logit_bias"):
            for token in getattr(self, name) or ():
                if token >= vocab_size:
                    allowed = f"token ids from 0 to {vocab_size - 1}"
                    raise checks.refuse(name, token, allowed, "Use ids of this model's tokenizer.")
        if self.min_tokens:
            self._validate_min_tokens(vocab_size, eos_token_ids)
        for name in ("logprobs", "prompt_logprobs"):
            count = getattr(self, name)
            wanted = vocab_size if count == -1 else count or 0
            if max_logprobs != -1 and wanted > max_logprobs:
                allowed = f"at most {max_logprobs}, the engine's max_logprobs"
                raise checks.refuse(name, count, allowed, "Ask for fewer, or raise max_logprobs.")

    def _validate_min_tokens(self, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        ending = self.stop_tokens.union(eos_token_ids)
        if self.allowed_token_ids is not None:
            if not ending.issuperset(self.allowed_token_ids):
                return
            what = f"allowed_token_ids={shown(self.allowed_token_ids)} holds"
        elif sum(0 <= token < vocab_size for token in ending) < vocab_size:
            return
        else:
            what = f"the model's {vocab_size} tokens are"
        message = (
            f"{what} only tokens that end the output, and min_tokens={self.min_tokens} forbids "
            "those; allow another token or set min_tokens=0."
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
    def from_optional(cls, **keywords: Any) -> Self:
        """Make the parameters of a request in which None stands for what was left out.

        Parameters
        ----------
        **keywords
            Fields; None = the default. ``logit_bias`` is brought into -100 to 100, as the OpenAI
            API has it.

        Raises
        ------
        InputError
            As the class.
        """
        # Only of max_tokens None says something else than the default.
        left_out = {name for name, value in keywords.items() if value is None} - {"max_tokens"}
        given = {
            name: value
            for name, value in keywords.items()
            if name not in left_out.intersection(cls.__dataclass_fields__)
        }
        if isinstance(bias := given.get("logit_bias"), Mapping):
            given["logit_bias"] = {token: checks.clamp(bias[token], 100.0) for token in bias}
        return cls(**given)

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any]) -> Self:
        """Take the defaults that a model ships in its ``generation_config.json``.

        Parameters
        ----------
        config : Mapping[str, Any]
            The file's content. Used: the fields of ``GENERATION_DEFAULTS``; None counts as absent.
        """
        return cls(
            **{
                name: config[key]
                for key, name in GENERATION_DEFAULTS.items()
                if config.get(key) is not None
            }
        )
