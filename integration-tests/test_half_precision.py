"""In bfloat16 and float16 the engine's error is little more than that of transformers + peft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import pytest
import torch

from plait import LLM, LoRARequest, RequestOutput, SamplingParams
from plait.demo.questions import prompts

OUTPUT_TOKENS = 64
DECODED_TOKENS = 32
"""Fewer of them are decoded: float16 is slow where a step has few tokens."""
CLEAR_GAP = 1e-3
MAX_RATIO, MEAN_RATIO = 1.5, 1.2
"""How much larger our error may be than that of transformers + peft in the same dtype."""
ALONE = 1.25
"""By how much more in prompts alone, and while decoding alone: of a dozen answers the mean error of
either is known to some 15%, as drawing other dozens of them shows."""

Request: TypeAlias = tuple[str | None, list[int], list[int]]
"""Adapter, prompt and answer."""

MIXED: tuple[tuple[str | None, str], ...] = tuple(
    (adapter, prompt) for prompt in prompts() for adapter in (None, "sql", "json")
)


class Forced:
    """The oracle's answers, with what it says to each token in float32."""

    def __init__(
        self,
        oracle: Any,
        llm: LLM,
        handles: dict[str | None, LoRARequest | None],
    ) -> None:
        self._handles = [handles[adapter] for adapter, _ in MIXED]
        tokenizer = llm.get_tokenizer()
        texts = [tokenizer(text).input_ids for _, text in MIXED]
        # Drafted in one batch and checked token by token below: much faster than the oracle's
        # own decoding, and the same answers.
        drafts = llm.generate(
            texts, _greedy(OUTPUT_TOKENS), lora_request=self._handles, use_tqdm=False
        )
        self.requests: list[Request] = [
            (adapter, ids, draft.outputs[0].token_ids)
            for (adapter, _), ids, draft in zip(MIXED, texts, drafts, strict=True)
        ]
        exact = oracle.logprobs(self.requests, torch.float32)
        self.logprobs = self.of_answers(exact)
        best = torch.stack([logprobs.amax(-1) for logprobs in exact])
        assert float((best - self.logprobs).max()) <= CLEAR_GAP, "these are not the oracle's tokens"

    def of_answers(self, logprobs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Pick the answers' tokens out of [tokens, vocab] each; float32 [requests, tokens]."""
        chosen = [
            of_one.gather(-1, torch.tensor(answer).unsqueeze(-1)).squeeze(-1)
            for of_one, (_, _, answer) in zip(logprobs, self.requests, strict=True)
        ]
        return torch.stack(chosen)

    def scored(self, llm: LLM) -> torch.Tensor:
        """Score the answers as parts of prompts, in a mixed batch; float32 [requests, tokens]."""
        outputs = llm.generate(
            [prompt + answer for _, prompt, answer in self.requests],
            SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0),
            lora_request=self._handles,
            use_tqdm=False,
        )
        logprobs: list[float] = []
        for (_, prompt, answer), output in zip(self.requests, outputs, strict=True):
            assert output.prompt_logprobs is not None
            for token, entry in zip(answer, output.prompt_logprobs[len(prompt) :], strict=True):
                assert entry is not None
                logprobs.append(entry[token].logprob)
        return torch.tensor(logprobs).view(len(self.requests), OUTPUT_TOKENS)

    def decoded(self, llm: LLM) -> torch.Tensor:
        """Score the first tokens while decoding, in a mixed batch; float32 [requests, tokens].

        Where the engine's choice leaves an answer, it is put back on it. The token itself has no
        score then, as those that are not decoded: nan.
        """
        logprobs = torch.full((len(self.requests), OUTPUT_TOKENS), torch.nan)
        done = [0] * len(self.requests)
        while unfinished := [i for i, count in enumerate(done) if count < DECODED_TOKENS]:
            outputs = llm.generate(
                [self.requests[i][1] + self.requests[i][2][: done[i]] for i in unfinished],
                [_greedy(DECODED_TOKENS - done[i]) for i in unfinished],
                lora_request=[self._handles[i] for i in unfinished],
                use_tqdm=False,
            )
            for i, output in zip(unfinished, outputs, strict=True):
                done[i] = self._take(i, done[i], output, logprobs[i])
        return logprobs

    def _take(self, i: int, start: int, output: RequestOutput, logprobs: torch.Tensor) -> int:
        """Note the scores up to the first token that is not the answer's; return where to go on."""
        completion = output.outputs[0]
        assert completion.logprobs is not None
        answer = self.requests[i][2][start:]
        for place, (token, entry) in enumerate(
            zip(completion.token_ids, completion.logprobs, strict=True)
        ):
            if token != answer[place]:
                return start + place + 1
            logprobs[start + place] = entry[token].logprob
        return DECODED_TOKENS


def _greedy(length: int) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=length, ignore_eos=True, logprobs=0)


@pytest.fixture(scope="module")
def forced(oracle: Any, llm: LLM, lora_requests: dict[str | None, LoRARequest | None]) -> Forced:
    return Forced(oracle, llm, lora_requests)


@pytest.mark.parametrize(
    ("dtype", "kernels"), [("bfloat16", None), ("bfloat16", "*=torch"), ("float16", None)]
)
def test_as_exact_as_transformers_and_peft(
    dtype: str, kernels: str | None, oracle: Any, forced: Forced, make_llm: Callable[..., LLM]
) -> None:
    theirs = forced.of_answers(oracle.logprobs(forced.requests, getattr(torch, dtype)))
    llm = make_llm(dtype=dtype, kernels=kernels)
    scored, decoded = forced.scored(llm), forced.decoded(llm)
    decoded = decoded[:, :DECODED_TOKENS]
    assert float(decoded.isnan().float().mean()) < 0.1, "hardly a choice is the oracle's"
    parts = [
        Errors.of(scored, theirs, forced.logprobs),
        Errors.of(decoded, theirs[:, :DECODED_TOKENS], forced.logprobs[:, :DECODED_TOKENS]),
    ]
    check(Errors(*(torch.cat(both, 1) for both in zip(*parts, strict=True))))
    for part in parts:
        check(part, ALONE)


class Errors(NamedTuple):
    """Errors of logprobs, [requests, tokens] each; 0 where ours is not known."""

    ours: torch.Tensor
    theirs: torch.Tensor

    @classmethod
    def of(cls, ours: torch.Tensor, theirs: torch.Tensor, exact: torch.Tensor) -> Errors:
        """Take them of logprobs, ours nan where it is not known."""
        known = ~ours.isnan()
        return cls(*(torch.where(known, (one - exact).abs(), 0) for one in (ours, theirs)))


def check(errors: Errors, leeway: float = 1.0) -> None:
    """Hold our errors against theirs.

    The one largest error is a matter of luck: another shape of the batch rounds elsewhere and
    moves it by half. So the largest of each answer are compared, on average over the answers.
    """
    ours, theirs = errors
    assert float(ours.sum()) <= leeway * MEAN_RATIO * float(theirs.sum())
    most = leeway * MAX_RATIO * float(theirs.amax(-1).mean())
    assert float(ours.amax(-1).mean()) <= most
