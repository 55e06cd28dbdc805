"""Logprobs against log_softmax in float64, one token at a time."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from plait_sampling.logprobs import (
    LogprobsDownload,
    SampledLogprobs,
    gather_logprobs,
    prompt_logprobs,
)
from plait_sampling.token_logprobs import TokenLogprobs


def oracle(logits: torch.Tensor) -> np.ndarray:
    return logits.double().log_softmax(-1).numpy()


@pytest.mark.parametrize("k", [0, 1, 5, 37, 50, -1])
def test_values_ids_and_ranks(source: torch.Generator, k: int) -> None:
    logits = 5 * torch.randn(9, 37, generator=source)
    tokens = torch.randint(0, 37, (9,), generator=source)
    ids, values, ranks = gather_logprobs(logits, tokens, k)
    exact = oracle(logits)
    width = 37 if k < 0 else min(k, 37)
    assert ids.shape == values.shape == (9, width + 1)
    for row, token in enumerate(tokens.tolist()):
        order = np.argsort(-exact[row])
        assert ids[row].tolist() == [token, *order[:width]]
        np.testing.assert_allclose(values[row].numpy(), exact[row][ids[row]], atol=1e-5)
        assert ranks[row] == 1 + order.tolist().index(token)


def test_equal_tokens_share_the_better_rank() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0]])
    for token, rank in ((1, 1), (2, 1), (0, 3), (3, 4)):
        assert gather_logprobs(logits, torch.tensor([token]), 1)[2].tolist() == [rank]


def test_half_precision_logits_are_worked_out_in_float32(source: torch.Generator) -> None:
    logits = torch.randn(4, 1000, generator=source).bfloat16()
    _, values, _ = gather_logprobs(logits, torch.arange(4), 3)
    assert values.dtype == torch.float32
    np.testing.assert_allclose(values[:, 0].numpy(), oracle(logits)[range(4), range(4)], atol=1e-5)


def test_each_row_gets_what_it_asked_for() -> None:
    download = LogprobsDownload(
        torch.tensor([[7, 1, 2, 3], [8, 4, 5, 6]]),
        torch.tensor([[-7.0, -1.0, -2.0, -3.0], [-8.0, -4.0, -5.0, -6.0]]),
        torch.tensor([7, 8]),
    )
    got = SampledLogprobs(download, places=(0, 3), counts=(1, -1)).wait()
    assert got.keys() == {0, 3}
    first, last = got[0], got[3]
    assert first.token_ids.tolist() == [[7, 1]]
    assert first.logprobs.tolist() == [[-7.0, -1.0]]
    assert first.ranks.tolist() == [7]
    assert last.token_ids.tolist() == [[8, 4, 5, 6]]
    assert last.token_ids.dtype == np.int32
    assert last.logprobs.dtype == np.float32


@pytest.mark.parametrize("positions", [0, 1, 300])
def test_prompt_logprobs(source: torch.Generator, positions: int) -> None:
    logits = torch.randn(positions, 11, generator=source)
    following = torch.randint(0, 11, (positions,), generator=source)
    got = prompt_logprobs(logits, following, 2).wait()
    exact = oracle(logits)
    assert len(got) == positions
    assert got.token_ids.shape == (positions, 3)
    np.testing.assert_array_equal(got.token_ids[:, 0], following)
    np.testing.assert_array_equal(got.token_ids[:, 1], exact.argmax(-1) if positions else [])
    np.testing.assert_allclose(
        got.logprobs, np.take_along_axis(exact, got.token_ids.astype(int), -1), atol=1e-5
    )


def test_parts_of_a_prompt_join(source: torch.Generator) -> None:
    logits = torch.randn(8, 11, generator=source)
    following = torch.randint(0, 11, (8,), generator=source)
    whole = prompt_logprobs(logits, following, -1).wait()
    cuts = [slice(0, 3), slice(3, 3), slice(3, 8)]
    parts = [prompt_logprobs(logits[cut], following[cut], -1).wait() for cut in cuts]
    joined = TokenLogprobs.concatenate(parts)
    for name in ("token_ids", "logprobs", "ranks"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    again = pickle.loads(pickle.dumps(whole))[2:5]
    np.testing.assert_array_equal(again.ranks, whole.ranks[2:5])
