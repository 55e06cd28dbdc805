"""The sampler against the logits processors of transformers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from plait_kernels.config import BUCKETS
from plait_sampling import Sampler, SamplingParams, SamplingRows, sampling_configs

History = tuple[list[int], list[int]]
GREEDY = SamplingParams(temperature=0)


def ids_of(history: History) -> torch.Tensor:
    return torch.tensor([history[0] + history[1]])


def random_history(source: torch.Generator, vocab: int) -> History:
    prompt, output = torch.randint(1, 9, (2,), generator=source).tolist()
    tokens = torch.randint(0, vocab, (prompt + output,), generator=source).tolist()
    return tokens[:prompt], tokens[prompt:]


def test_greedy_takes_the_best_and_leaves_the_logits(bench: Any, source: torch.Generator) -> None:
    logits = torch.randn(4, bench.vocab, generator=source)
    output = bench.sample(logits.clone(), [GREEDY] * 4, [([1], [])] * 4)
    assert output.token_ids.tolist() == logits.argmax(-1).tolist()
    assert output.token_ids.dtype == torch.int64
    assert output.logprobs is None
    torch.testing.assert_close(bench.processed[0], logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    "keywords",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 5},
        {"temperature": 0.9, "top_p": 0.7},
        {"temperature": 1.1, "min_p": 0.2},
        {"temperature": 0.8, "top_k": 9, "top_p": 0.8, "min_p": 0.1},
    ],
)
def test_draws_are_distributed_as_the_warpers_say(
    bench: Any, source: torch.Generator, keywords: dict[str, Any]
) -> None:
    draws = 3000
    row = 2 * torch.randn(1, bench.vocab, generator=source)
    warped = TemperatureLogitsWarper(keywords["temperature"])(None, row)
    if "top_k" in keywords:
        warped = TopKLogitsWarper(keywords["top_k"])(None, warped)
    if "top_p" in keywords:
        warped = TopPLogitsWarper(keywords["top_p"])(None, warped)
    if "min_p" in keywords:
        warped = MinPLogitsWarper(keywords["min_p"])(None, warped)
    expected = warped.softmax(-1)[0].double()
    params = [SamplingParams(**keywords)] * draws
    output = bench.sample(
        row.repeat(draws, 1), params, [([1, 2], [])] * draws, seeds=list(range(draws))
    )
    counts = torch.bincount(output.token_ids, minlength=bench.vocab).double()
    assert counts[expected == 0].sum() == 0
    deviation = (expected * (1 - expected) / draws).sqrt()
    assert ((counts / draws - expected).abs() <= 5 * deviation + 1e-12).all()


def test_a_draw_depends_on_seed_and_position_alone(bench: Any, source: torch.Generator) -> None:
    row = torch.randn(1, bench.vocab, generator=source)
    warm = SamplingParams(temperature=1.5)
    histories: list[History] = [([1] * length, []) for length in range(1, 30)]
    alone = [
        int(bench.sample(row.clone(), [warm], [history], seeds=[5]).token_ids[0])
        for history in histories
    ]
    together = bench.sample(
        row.repeat(29, 1), [warm] * 29, histories[::-1], seeds=[5] * 29
    ).token_ids.tolist()
    assert together[::-1] == alone
    assert len(set(alone)) > 3
    other = bench.sample(row.repeat(29, 1), [warm] * 29, histories[::-1], seeds=[6] * 29)
    assert other.token_ids.tolist() != together


@pytest.mark.parametrize("penalty", [0.6, 1.7])
def test_repetition_penalty(bench: Any, source: torch.Generator, penalty: float) -> None:
    logits = torch.randn(6, bench.vocab, generator=source)
    histories = [random_history(source, bench.vocab) for _ in range(6)]
    plain = [SamplingParams(temperature=0), SamplingParams(temperature=0.5)]
    params = [
        plain[place % 2] if place % 3 == 0 else SamplingParams(repetition_penalty=penalty)
        for place in range(6)
    ]
    bench.sample(logits.clone(), params, histories)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    for place, history in enumerate(histories):
        row = logits[place : place + 1]
        expected = row if place % 3 == 0 else processor(ids_of(history), row.clone())
        torch.testing.assert_close(bench.processed[0][place], expected[0], rtol=1e-6, atol=0)


def test_frequency_and_presence_count_output_tokens(bench: Any, source: torch.Generator) -> None:
    logits = torch.randn(2, bench.vocab, generator=source)
    params = [
        SamplingParams(frequency_penalty=0.5, presence_penalty=-1.25),
        SamplingParams(presence_penalty=0.75),
    ]
    histories = [([4, 4, 9], [7, 7, 9]), ([1], [2])]
    bench.sample(logits.clone(), params, histories)
    expected = logits.clone()
    expected[0, 7] -= 2 * 0.5 - 1.25
    expected[0, 9] -= 0.5 - 1.25
    expected[1, 2] -= 0.75
    torch.testing.assert_close(bench.processed[0], expected)


def test_allowed_tokens(bench: Any, source: torch.Generator) -> None:
    logits = torch.randn(3, bench.vocab, generator=source)
    params = [SamplingParams(allowed_token_ids=[3, 8, 20]), GREEDY, SamplingParams()]
    params[2].allowed_token_ids = [5]
    output = bench.sample(logits.clone(), params, [([1], [])] * 3)
    for place, allowed in ((0, [3, 8, 20]), (2, [5])):
        only = PrefixConstrainedLogitsProcessor(lambda batch, ids, allowed=allowed: allowed, 1)
        expected = only(torch.tensor([[1]]), logits[place : place + 1].clone())
        torch.testing.assert_close(bench.processed[0][place], expected[0], rtol=0, atol=0)
    torch.testing.assert_close(bench.processed[0][1], logits[1], rtol=0, atol=0)
    assert output.token_ids[2] == 5


@pytest.mark.parametrize("generated", [0, 2, 3, 4])
def test_min_tokens_hold_back_what_ends_the_output(
    bench: Any, source: torch.Generator, generated: int
) -> None:
    logits = torch.randn(2, bench.vocab, generator=source)
    history = ([4, 5], [6] * generated)
    params = [
        SamplingParams(min_tokens=3, stop_token_ids=[9, 32003]),
        SamplingParams(stop_token_ids=[9]),
    ]
    bench.sample(logits.clone(), params, [history] * 2, eos=(2, 11))
    processor = MinNewTokensLengthLogitsProcessor(2, 3, [2, 9, 11])
    expected = processor(ids_of(history), logits[:1].clone())
    torch.testing.assert_close(bench.processed[0][0], expected[0], rtol=0, atol=0)
    torch.testing.assert_close(bench.processed[0][1], logits[1], rtol=0, atol=0)


def test_logit_bias(bench: Any, source: torch.Generator) -> None:
    logits = torch.randn(2, bench.vocab, generator=source)
    bias = {3: 100.0, 4: -2.5, 22: 0.5}
    params = [GREEDY, SamplingParams(temperature=0, logit_bias=bias)]
    output = bench.sample(logits.clone(), params, [([1], [])] * 2)
    processor = SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()])
    expected = processor(torch.tensor([[1]]), logits[1:].clone())
    torch.testing.assert_close(bench.processed[0][1], expected[0])
    torch.testing.assert_close(bench.processed[0][0], logits[0], rtol=0, atol=0)
    assert output.token_ids[1] == 3


def test_logprobs_are_those_of_the_raw_logits(bench: Any, source: torch.Generator) -> None:
    logits = torch.randn(4, bench.vocab, generator=source)
    params = [
        SamplingParams(temperature=0, logprobs=2, logit_bias={6: 50.0}),
        GREEDY,
        SamplingParams(temperature=0, logprobs=0),
        SamplingParams(temperature=0.5, logprobs=-1, repetition_penalty=1.5),
    ]
    output = bench.sample(logits.clone(), params, [([1], [2])] * 4)
    assert output.logprobs is not None
    rows = output.logprobs.wait()
    assert rows.keys() == {0, 2, 3}
    exact = logits.double().log_softmax(-1).numpy()
    for place, count in ((0, 2), (2, 0), (3, bench.vocab)):
        got = rows[place]
        order = np.argsort(-exact[place])
        drawn = int(output.token_ids[place])
        assert got.token_ids.tolist() == [[drawn, *order[:count]]]
        np.testing.assert_allclose(got.logprobs[0], exact[place][got.token_ids[0]], atol=1e-5)
        assert got.ranks.tolist() == [1 + order.tolist().index(drawn)]
    assert int(output.token_ids[0]) == 6


def test_a_row_is_processed_alike_alone_and_in_a_batch(bench: Any, source: torch.Generator) -> None:
    everything = SamplingParams(
        temperature=0.9,
        repetition_penalty=1.3,
        frequency_penalty=0.4,
        presence_penalty=-0.3,
        logit_bias={1: 2.0, 5: -1.0},
        allowed_token_ids=list(range(18)),
        min_tokens=9,
        stop_token_ids=[3],
        top_p=0.9,
    )
    params = [everything, GREEDY, SamplingParams(top_k=3), everything.clone()]
    logits = torch.randn(4, bench.vocab, generator=source)
    histories = [random_history(source, bench.vocab) for _ in range(4)]
    seeds = [3, 1, 4, 1]
    together = bench.sample(logits.clone(), params, histories, seeds=seeds, eos=(0,))
    batched = bench.processed[0]
    for place in range(4):
        one = slice(place, place + 1)
        alone = bench.sample(
            logits[one].clone(), params[one], histories[one], seeds=seeds[one], eos=(0,)
        )
        assert alone.token_ids[0] == together.token_ids[place]
        torch.testing.assert_close(bench.processed[-1][0], batched[place], rtol=0, atol=0)


def test_prompt_logprobs_come_from_the_sampler_too(source: torch.Generator) -> None:
    sampler = Sampler(lambda logits, batch: None, lambda logits, batch: logits.argmax(-1))
    logits = torch.randn(3, 7, generator=source)
    got = sampler.prompt_logprobs(logits, torch.tensor([1, 2, 3]), 1).wait()
    np.testing.assert_allclose(
        got.logprobs[:, 0], logits.double().log_softmax(-1)[range(3), [1, 2, 3]], atol=1e-5
    )


def test_configs_name_both_ops_in_every_bucket() -> None:
    configs = sampling_configs(100, 8)
    assert {(config.op, config.bucket) for config in configs} == {
        (op, bucket) for op in ("apply_penalties", "sample") for bucket in BUCKETS
    }
    assert all(config.get("vocab") == 100 and config.max_tokens == 8 for config in configs)


def test_a_table_gives_the_decode_kernels() -> None:
    kernels = {
        "apply_penalties": lambda logits, batch: None,
        "sample": lambda logits, batch: torch.tensor([7]),
    }

    class Table:
        def bind(self, op: str, dtype: str, **params: Any) -> tuple[Any, ...]:
            assert (dtype, params) == ("float32", {"vocab": 100})
            return (kernels[op], None)

    rows = SamplingRows(1)
    rows.set(0, SamplingParams(presence_penalty=1.0), 0)
    output = Sampler.from_table(Table(), 100).sample(
        torch.zeros(1, 100),
        np.array([0]),
        rows,
        token_ids=torch.zeros(1, 4, dtype=torch.int32),
        prompt_length=torch.ones(1, dtype=torch.int32),
        length=np.array([1]),
    )
    assert output.token_ids.tolist() == [7]


EXTREMES: dict[str, list[Any]] = {
    "temperature": [0, 1e-5, 2.0],
    "repetition_penalty": [1e-6, 1.0, 1e6],
    "top_p": [5e-324, 1 - 1e-16, 1.0],
    "top_k": [0, 1, 2**31, 2**63 - 1],
    "min_p": [0.0, 5e-324, 1.0],
    "logit_bias": [None, {3: 1e20, 4: -1e20}, dict.fromkeys(range(23), -1e20)],
    "min_tokens": [0, 2**63 - 1],
}


def test_values_at_their_bounds_draw_a_token_from_finite_logits(bench: Any) -> None:
    source = random.Random(5)
    params = [
        SamplingParams(
            max_tokens=None,
            stop_token_ids=list(range(bench.vocab - 1)),
            frequency_penalty=2,
            presence_penalty=-2,
            **{name: source.choice(values) for name, values in EXTREMES.items()},
        )
        for _ in range(200)
    ]
    logits = torch.linspace(-1e4, 1e4, bench.vocab).repeat(len(params), 1)
    output = bench.sample(logits, params, [([1, 2], [3, 5])] * len(params))
    assert ((output.token_ids >= 0) & (output.token_ids < bench.vocab)).all()
    (processed,) = bench.processed
    assert not processed.isnan().any()
    temperature = torch.tensor([max(p.temperature, 1e-5) for p in params])
    assert (processed.amax(-1) / temperature).isfinite().all()


def test_min_tokens_hold_back_no_token_for_an_end_that_the_model_does_not_have(
    bench: Any,
) -> None:
    logits = torch.zeros(1, bench.vocab)
    logits[0, -1] = 1.0
    params = SamplingParams(temperature=0, min_tokens=5)
    output = bench.sample(logits, [params], [([1], [])], eos=(-1, 2))
    assert output.token_ids.tolist() == [bench.vocab - 1]


@pytest.mark.parametrize(
    "keywords",
    [
        {"temperature": 0},
        {"temperature": 0, "logprobs": 2},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 1.0, "min_p": 0.2},
        {"temperature": 1.0, "repetition_penalty": 1.5},
    ],
)
def test_where_no_logit_is_finite_no_token_is_drawn_and_other_rows_are_as_alone(
    bench: Any, source: torch.Generator, keywords: dict[str, Any]
) -> None:
    good = torch.randn(2, bench.vocab, generator=source)
    bad = torch.randn(5, bench.vocab, generator=source)
    bad[0] = float("nan")
    bad[1, 3] = float("nan")
    bad[2, 3] = float("inf")
    bad[3, ::2], bad[3, 1::2] = float("inf"), float("-inf")
    bad[4] = float("-inf")
    params = SamplingParams(**keywords)
    logits = torch.cat([good[:1], bad, good[1:]])
    seeds = list(range(7))
    together = bench.sample(logits, [params] * 7, [([1, 2], [3])] * 7, seeds=seeds)
    assert together.token_ids[1:6].tolist() == [-1] * 5
    for place, row in ((0, good[:1]), (6, good[1:])):
        alone = bench.sample(row.clone(), [params], [([1, 2], [3])], seeds=[seeds[place]])
        assert together.token_ids[place] == alone.token_ids[0]


@pytest.mark.parametrize("fields", [{"top_k": 2**63}, {"min_tokens": 2**70}])
def test_numbers_beyond_those_of_the_device_are_as_the_largest(
    bench: Any, source: torch.Generator, fields: dict[str, Any]
) -> None:
    params = SamplingParams(temperature=1.0, seed=1)
    for name, value in fields.items():
        params.__dict__[name] = value
    logits = torch.randn(1, bench.vocab, generator=source)
    usual = bench.sample(logits.clone(), [SamplingParams(temperature=1.0)], [([1], [])], seeds=[5])
    output = bench.sample(logits.clone(), [params], [([1], [])], seeds=[5])
    assert output.token_ids.tolist() == usual.token_ids.tolist()
