"""Mixed batches answer as transformers + peft does, one request at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from plait import LLM, LoRARequest, RequestOutput, SamplingParams
from plait.demo.questions import prompts

OUTPUT_TOKENS = 64
CLEAR_GAP = 1e-3
"""Where the two best logits are closer than this, either token is right."""

GENERAL = (
    "The three primary colours are",
    "Once upon a time, in 1742, a miller had 12 sons.",
    "def fibonacci(n):\n    ",
)
LONG = "Here is what happened, day by day. " + " ".join(
    f"On day {i} the crew of {i * 37 % 19} sailors saw {i * i % 23} ships." for i in range(14)
)

MIXED: tuple[tuple[str | None, str], ...] = (
    (None, prompts()[0]),
    ("sql", prompts()[0]),
    ("json", prompts()[0]),
    ("rank1", GENERAL[0]),
    ("rank5", GENERAL[1]),
    (None, GENERAL[1]),
    ("rank8", GENERAL[2]),
    ("rank16", prompts()[1]),
    ("rank64", GENERAL[1]),
    ("sql", prompts()[3]),
    ("json", GENERAL[0]),
    (None, LONG),
    ("rank5", LONG),
    ("sql", LONG),
    (None, GENERAL[2]),
    ("rank16", GENERAL[2]),
)
"""Which adapter answers what. Adapters meet each other's prompts, and base rows sit between."""


class Comparison:
    """Runs the mixed batch on an engine and holds its answers against the oracle's."""

    def __init__(
        self, oracle: Any, handles: dict[str | None, LoRARequest | None], tokenizer: Any
    ) -> None:
        self.oracle = oracle
        self.handles = handles
        self.ids = [tokenizer(text).input_ids for _, text in MIXED]
        self.near_ties = 0
        self.positions = 0

    def run(self, llm: LLM, which: Sequence[int] = range(len(MIXED))) -> list[RequestOutput]:
        params = SamplingParams(temperature=0, max_tokens=OUTPUT_TOKENS, ignore_eos=True)
        return llm.generate(
            [self.ids[i] for i in which],
            params,
            lora_request=[self.handles[MIXED[i][0]] for i in which],
            use_tqdm=False,
        )

    def check(self, outputs: Sequence[RequestOutput], which: Sequence[int] | None = None) -> None:
        which = range(len(MIXED)) if which is None else which
        for i, output in zip(which, outputs, strict=True):
            self.check_one(i, output.outputs[0].token_ids)
        assert self.near_ties <= 0.01 * self.positions

    def check_one(self, i: int, token_ids: Sequence[int]) -> None:
        answer = self.oracle.answer(MIXED[i][0], self.ids[i], OUTPUT_TOKENS)
        assert len(token_ids) == OUTPUT_TOKENS
        for got, wanted, gap in zip(token_ids, answer.token_ids, answer.gaps, strict=True):
            self.positions += 1
            if gap <= CLEAR_GAP:
                self.near_ties += 1
                return  # From here on the two may rightly differ.
            assert got == wanted, f"request {i} ({MIXED[i][0]}): {token_ids} {answer.token_ids}"


@pytest.fixture(scope="module")
def comparison(
    oracle: Any, lora_requests: dict[str | None, LoRARequest | None], llm: LLM
) -> Comparison:
    return Comparison(oracle, lora_requests, llm.get_tokenizer())


def test_a_mixed_batch(llm: LLM, comparison: Comparison) -> None:
    comparison.check(comparison.run(llm))


def test_the_adapters_do_something(comparison: Comparison) -> None:
    """Guards the tests above: with equal answers they would show nothing."""
    for i, (adapter, _) in enumerate(MIXED):
        if adapter is not None:
            own = comparison.oracle.answer(adapter, comparison.ids[i], OUTPUT_TOKENS)
            base = comparison.oracle.answer(None, comparison.ids[i], OUTPUT_TOKENS)
            assert own.token_ids != base.token_ids, adapter


def test_steps_planned_ahead(
    make_llm: Callable[..., LLM], plan_ahead: Callable[[LLM], LLM], comparison: Comparison
) -> None:
    comparison.check(comparison.run(plan_ahead(make_llm(max_num_batched_tokens=128))))


def test_a_warm_prefix_cache(llm: LLM, comparison: Comparison) -> None:
    llm.reset_prefix_cache()
    cold = comparison.run(llm)
    warm = comparison.run(llm)
    assert all(output.num_cached_tokens == 0 for output in cold)
    for ids, output in zip(comparison.ids, warm, strict=True):
        assert output.num_cached_tokens == (len(ids) - 1) // 16 * 16
    comparison.check(warm)


def test_chunked_prefill(make_llm: Callable[..., LLM], comparison: Comparison) -> None:
    llm = make_llm(max_num_batched_tokens=48, max_num_seqs=16)
    assert any(len(ids) > 3 * 48 for ids in comparison.ids)
    comparison.check(comparison.run(llm))


def _num_tokens(output: RequestOutput) -> int:
    return len(output.outputs[0].token_ids)


def test_every_request_preempted_twice(
    make_llm: Callable[..., LLM], comparison: Comparison
) -> None:
    """Twice a more urgent prompt as long as the whole pool comes in and drives all others out."""
    num_blocks, block_size = 160, 16
    llm = make_llm(
        max_model_len=num_blocks * block_size,
        num_gpu_blocks_override=num_blocks,
        block_size=block_size,
        max_num_batched_tokens=256,
    )
    engine = llm.llm_engine
    which = [i for i, (_, text) in enumerate(MIXED) if text != LONG]
    params = SamplingParams(temperature=0, max_tokens=OUTPUT_TOKENS, ignore_eos=True)
    for i in which:
        handle = comparison.handles[MIXED[i][0]]
        engine.add_request(str(i), comparison.ids[i], params, lora_request=handle)
    latest: dict[str, RequestOutput] = {}

    def step() -> None:
        latest.update((output.request_id, output) for output in engine.step())

    one = SamplingParams(temperature=0, max_tokens=1)
    for turn, length in enumerate((3, 20)):
        while len(latest) < len(which) or min(map(_num_tokens, latest.values())) < length:
            step()
        urgent = [7 + turn] * (num_blocks * block_size - 1)
        engine.add_request(f"urgent-{turn}", urgent, one, priority=-1)
        while f"urgent-{turn}" not in latest:
            step()
        del latest[f"urgent-{turn}"]
    while engine.has_unfinished_requests():
        step()
    outputs = [latest[str(i)] for i in which]
    assert min(output.metrics.num_preemptions for output in outputs if output.metrics) >= 2
    comparison.check(outputs, which)


def test_base_rows_beside_adapter_rows(llm: LLM, comparison: Comparison) -> None:
    """A base row gets the base model's answer, whoever is next to it."""
    sql = [i for i, (adapter, _) in enumerate(MIXED) if adapter == "sql"]
    base = [i for i, (adapter, _) in enumerate(MIXED) if adapter is None]
    which = [sql[0], base[0], sql[1], base[1], base[3]]
    comparison.check(comparison.run(llm, which), which)


def test_alone_and_among_others(llm: LLM, comparison: Comparison) -> None:
    """The same request gives the same tokens alone and among 15 others."""
    assert len(MIXED) == 16
    llm.reset_prefix_cache()
    together = comparison.run(llm)
    for i in (0, 1, 6, 8):
        llm.reset_prefix_cache()
        alone = comparison.run(llm, [i])
        comparison.check(alone, [i])
        gaps = comparison.oracle.answer(MIXED[i][0], comparison.ids[i], OUTPUT_TOKENS).gaps
        assert min(gaps) > CLEAR_GAP, "choose a request without a near tie"
        assert alone[0].outputs[0].token_ids == together[i].outputs[0].token_ids


def test_logits_of_the_prompt(llm: LLM, comparison: Comparison) -> None:
    """The first token's whole distribution, from a prefill that mixes all adapters."""
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=-1)
    llm.reset_prefix_cache()
    outputs = llm.generate(
        comparison.ids,
        params,
        lora_request=[comparison.handles[adapter] for adapter, _ in MIXED],
        use_tqdm=False,
    )
    for i, output in enumerate(outputs):
        assert output.outputs[0].logprobs is not None
        got = output.outputs[0].logprobs[0]
        logits = comparison.oracle.answer(MIXED[i][0], comparison.ids[i]).first_logits
        wanted = logits.log_softmax(-1)
        ours = torch.tensor([got[token].logprob for token in range(len(wanted))])
        assert float((ours - wanted).norm() / wanted.norm()) < 1e-4


def test_teacher_forced(llm: LLM, comparison: Comparison) -> None:
    """Fed the oracle's tokens, our best token is the oracle's wherever its choice is clear."""
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
    answers = [
        comparison.oracle.answer(a, ids) for (a, _), ids in zip(MIXED, comparison.ids, strict=True)
    ]
    outputs = llm.generate(
        [[*ids, *answer.token_ids] for ids, answer in zip(comparison.ids, answers, strict=True)],
        params,
        lora_request=[comparison.handles[adapter] for adapter, _ in MIXED],
        use_tqdm=False,
    )
    near_ties = positions = 0
    for ids, answer, output in zip(comparison.ids, answers, outputs, strict=True):
        assert output.prompt_logprobs is not None
        forced = output.prompt_logprobs[len(ids) :]
        for entry, token, gap in zip(forced, answer.token_ids, answer.gaps, strict=True):
            assert entry is not None
            positions += 1
            near_ties += gap <= CLEAR_GAP
            assert gap <= CLEAR_GAP or entry[token].rank == 1
    assert near_ties < 0.01 * positions
