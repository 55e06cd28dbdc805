"""Beam search: the best continuations of a prompt, by the sum of their logprobs.

It is made of steps of ``LLM.generate``, one token each. The prefix cache holds what beams share.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from plait.prompts import ParsedPrompt
from plait_kernels.arguments import shown
from plait_kernels.errors import InputError
from plait_sampling.params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from plait.llm_engine import LLMEngine
    from plait.offline_requests import OfflineRequests, Wanted
    from plait.outputs import Logprob, RequestOutput
    from plait_lora.request import LoRARequest


@dataclass
class BeamSearchParams:
    """What to search for.

    Attributes
    ----------
    beam_width : int
        Sequences that are kept at each step, and returned.
    max_tokens : int
        New tokens of a sequence at most.
    ignore_eos : bool
        Go on after an end-of-sequence token.
    temperature : float
        Of the draw that every step makes beside its best tokens; 0 = none.
    length_penalty : float
        Sequences are ordered by the sum of their logprobs over their number of new tokens to this
        power.
    include_stop_str_in_output : bool
        Without effect: an end-of-sequence token always stays in ``tokens``.
    structured_outputs, watermarking, allowed_token_ids : None
        Not served.
    skip_special_tokens : bool
        Leave special tokens out of ``text``.

    Raises
    ------
    InputError
        For a bad value.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False
    structured_outputs: None = None
    skip_special_tokens: bool = True
    watermarking: bool | None = None
    allowed_token_ids: None = None

    def __post_init__(self) -> None:
        for name in ("beam_width", "max_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
                text = f"{name} must be an integer from 1 to {_MOST}, got {shown(value)}"
                raise InputError(text)
        if not isinstance(self.length_penalty, int | float) or not abs(self.length_penalty) <= 10:
            text = (
                f"length_penalty must be a number from -10 to 10, got {shown(self.length_penalty)}"
            )
            raise InputError(text)
        SamplingParams(temperature=self.temperature)  # It checks the temperature.
        for name in ("structured_outputs", "watermarking", "allowed_token_ids"):
            if getattr(self, name) not in (None, False):
                text = f"{name} of a beam search is not served; leave it out"
                raise InputError(text)


_MOST = 1 << 20


@dataclass
class BeamSearchSequence:
    """One sequence that was found.

    Attributes
    ----------
    tokens : list[int]
        Of the prompt and the new ones.
    logprobs : list[dict[int, Logprob]]
        For each new token: those that it was chosen from.
    lora_request : LoRARequest | None
    cum_logprob : float
        Sum over the new tokens.
    text : str | None
        All tokens as text; None without a tokenizer.
    finish_reason : str | None
        "stop" after an end-of-sequence token, else "length"; None while it grows.
    """

    tokens: list[int]
    logprobs: list[dict[int, Logprob]] = field(repr=False)
    lora_request: LoRARequest | None = None
    cum_logprob: float = 0.0
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class BeamSearchOutput:
    """What was found for one prompt.

    Attributes
    ----------
    sequences : list[BeamSearchSequence]
        The best first.
    """

    sequences: list[BeamSearchSequence]


@dataclass
class Search:
    """The search for one prompt.

    Attributes
    ----------
    prompt : ParsedPrompt
        With tokens.
    wanted : Wanted
        Its adapter and priority.
    beams : list[BeamSearchSequence]
        Those that grow.
    completed : list[BeamSearchSequence]
    """

    prompt: ParsedPrompt
    wanted: Wanted
    beams: list[BeamSearchSequence] = field(init=False)
    completed: list[BeamSearchSequence] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        tokens = list(self.prompt.token_ids or ())
        self.beams = [BeamSearchSequence(tokens, [], self.wanted.lora_request)]

    def next_tokens(self, params: SamplingParams) -> list[Wanted]:
        """Return the requests that give each beam one more token."""
        text, salt = self.prompt.text, self.prompt.cache_salt
        return [
            replace(self.wanted, prompt=ParsedPrompt(text, beam.tokens, salt), params=params)
            for beam in self.beams
        ]

    def take(self, outputs: Iterable[RequestOutput], stops: frozenset[int]) -> None:
        """Let each beam grow by each of its best tokens."""
        for beam, output in zip(self.beams, outputs, strict=True):
            (logprobs,) = output.outputs[0].logprobs or ({},)
            for token, entry in logprobs.items():
                grown = BeamSearchSequence(
                    [*beam.tokens, token],
                    [*beam.logprobs, logprobs],
                    beam.lora_request,
                    beam.cum_logprob + entry.logprob,
                )
                if token in stops:
                    grown.finish_reason, grown.stop_reason = "stop", token
                self.completed.append(grown)
        self.beams = [beam for beam in self.completed if beam.finish_reason is None]
        self.completed = [beam for beam in self.completed if beam.finish_reason is not None]


def beam_search(
    engine: LLMEngine,
    requests: OfflineRequests,
    searches: Sequence[Search],
    params: BeamSearchParams,
    *,
    use_tqdm: bool,
    concurrency_limit: int | None,
) -> list[BeamSearchOutput]:
    """Search for several prompts; see ``LLM.beam_search``."""
    if not isinstance(params, BeamSearchParams):
        text = f"params must be BeamSearchParams, got {type(params).__name__}"
        raise InputError(text)
    longest = engine.core.info.max_model_len
    for one in searches:
        length = len(one.prompt.token_ids or ())
        if length + params.max_tokens > longest:
            text = (
                f"a prompt of {length} tokens and max_tokens={params.max_tokens} are too long "
                f"together: allowed: max_model_len={longest}. Shorten one of them"
            )
            raise InputError(text)
    at_once = concurrency_limit
    if at_once is not None and (not isinstance(at_once, int) or at_once < 1):
        text = f"concurrency_limit must be an integer of at least 1 or None, got {shown(at_once)}"
        raise InputError(text)
    stops = frozenset() if params.ignore_eos else frozenset(engine.eos_token_ids)
    size = at_once or max(len(searches), 1)
    for first in range(0, len(searches), size):
        steps = tqdm(range(params.max_tokens), "Beam search", disable=not use_tqdm)
        _search(searches[first : first + size], params, stops, requests, steps)
    found = [BeamSearchOutput(one.completed) for one in searches]
    for sequence in (sequence for output in found for sequence in output.sequences):
        if engine.tokenizer is not None:
            sequence.text = engine.tokenizer.decode(
                sequence.tokens, skip_special_tokens=params.skip_special_tokens
            )
    return found


def _search(
    searches: Sequence[Search],
    params: BeamSearchParams,
    stops: frozenset[int],
    requests: OfflineRequests,
    steps: Iterable[int],
) -> None:
    """Search for several prompts at the same time; leave what was found as completed."""
    # Twice the width, as transformers does: if all of a beam's best tokens were ends of sequence,
    # as many others are left to go on with.
    sampling = SamplingParams(
        max_tokens=1,
        temperature=params.temperature,
        logprobs=2 * params.beam_width,
        ignore_eos=True,
        detokenize=False,
    )

    def best(beams: Iterable[BeamSearchSequence]) -> list[BeamSearchSequence]:
        return sorted(beams, key=score, reverse=True)[: params.beam_width]

    def score(beam: BeamSearchSequence) -> float:
        return beam.cum_logprob / float(len(beam.logprobs) ** params.length_penalty)

    for _ in steps:
        wanted = [request for one in searches for request in one.next_tokens(sampling)]
        if not wanted:
            break
        outputs = iter(requests.run(wanted, use_tqdm=False))
        for one in searches:
            one.take([next(outputs) for _ in one.beams], stops)
            one.beams = best(one.beams)
    for one in searches:
        for beam in one.beams:
            beam.finish_reason = "length"
        one.completed = best([*one.completed, *one.beams])
