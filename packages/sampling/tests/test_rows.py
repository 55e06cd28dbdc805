"""SamplingRows: what is set comes back, whatever the order and the row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plait_sampling import SamplingParams, SamplingRows


def test_rows_gather_in_the_order_asked_for() -> None:
    rows = SamplingRows(5)
    rows.set(4, SamplingParams(temperature=0.5, top_k=7, top_p=0.9, min_p=0.1), 41)
    rows.set(1, SamplingParams(temperature=0), -3)
    chosen = np.array([1, 4])
    batch = rows.gather(chosen, torch.from_numpy(chosen), torch.tensor([10, 20]))
    assert batch.temperature.tolist() == [0.0, 0.5]
    assert batch.top_k.tolist() == [0, 7]
    assert batch.top_k.dtype == torch.int32
    torch.testing.assert_close(batch.top_p, torch.tensor([1.0, 0.9]))
    torch.testing.assert_close(batch.min_p, torch.tensor([0.0, 0.1]))
    assert batch.seed.tolist() == [-3, 41]
    assert batch.seed.dtype == torch.int64
    assert batch.position.tolist() == [10, 20]
    assert not batch.all_greedy
    one = np.array([1])
    assert rows.gather(one, torch.from_numpy(one), torch.tensor([0])).all_greedy


def test_a_row_that_is_given_away_forgets_its_past() -> None:
    rows = SamplingRows(2)
    past = SamplingParams(
        min_tokens=4, logit_bias={3: 1.0}, allowed_token_ids=[3, 4], presence_penalty=1.0
    )
    one = np.array([0])
    rows.set(0, past, 5, (9,))
    rows.gather(one, torch.from_numpy(one), torch.tensor([0]))
    rows.set(0, SamplingParams(temperature=0), 6)
    (extras,) = rows.extras(one)
    assert extras.greedy
    assert not extras.penalised
    assert extras.logprobs is None
    assert extras.ending.tolist() == extras.biased.tolist() == extras.bias.tolist() == []
    assert extras.allowed is None
    batch = rows.gather(one, torch.from_numpy(one), torch.tensor([0]))
    assert batch.temperature.tolist() == [0.0]
    assert batch.seed.tolist() == [6]
    history = torch.zeros(1, 1, dtype=torch.int32)
    lengths = torch.zeros(1, dtype=torch.int32)
    penalties = rows.gather_penalties(torch.from_numpy(one), history, lengths, lengths)
    assert penalties.presence.tolist() == [0.0]
    assert penalties.repetition.tolist() == [1.0]


@pytest.mark.parametrize("seed", [2**63 - 1 + 5, -(2**63), 2**64 - 1])
def test_seeds_wrap_around(seed: int) -> None:
    rows = SamplingRows(1)
    rows.set(0, SamplingParams(), seed)
    one = np.array([0])
    batch = rows.gather(one, torch.from_numpy(one), torch.tensor([0]))
    assert int(batch.seed[0]) % 2**64 == seed % 2**64


def test_ending_tokens_are_those_of_model_and_request() -> None:
    rows = SamplingRows(1)
    rows.set(0, SamplingParams(min_tokens=2, stop_token_ids=[7]), 0, (2, 7))
    (extras,) = rows.extras(np.array([0]))
    assert extras.ending.tolist() == [2, 7]
    assert extras.min_tokens == 2
