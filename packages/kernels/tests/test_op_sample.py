from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from plait_kernels.config import OpConfig
from plait_kernels.ops.philox import philox4x32, uniform
from plait_kernels.ops.sample import inputs, reference
from plait_kernels.sampling_types import SampleBatch
from plait_kernels.torch_backend import philox as torch_philox
from plait_kernels.torch_backend import sample as torch_sample
from plait_kernels.torch_backend.sample import make

CONFIG = OpConfig.of("sample", dtype="float32", bucket="decode", max_tokens=16, vocab=61)

# The known answers that Random123 publishes for philox4x32-10: counter, key, result.
KNOWN_ANSWERS = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


def batch_of(
    rows: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 0,
) -> SampleBatch:
    """Rows that differ in their position only."""
    return SampleBatch(
        temperature=torch.full((rows,), temperature),
        top_k=torch.full((rows,), top_k, dtype=torch.int32),
        top_p=torch.full((rows,), top_p),
        min_p=torch.full((rows,), min_p),
        seed=torch.full((rows,), seed),
        position=torch.arange(rows),
        all_greedy=temperature == 0,
    )


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter: Any, key: Any, expected: Any) -> None:
    assert philox4x32(counter, key) == expected
    # 1 and 19 lanes take the scalar and the vector path of torch's kernels.
    for lanes in (1, 19):
        c0, c1, c2, c3, k0, k1 = (torch.full((lanes,), word) for word in (*counter, *key))
        words = torch_philox.philox4x32((c0, c1, c2, c3), (k0, k1))
        assert [word.tolist() for word in words] == [[word] * lanes for word in expected]


def test_uniform_of_tensors_equals_that_of_integers() -> None:
    source = torch.Generator().manual_seed(0)
    seeds = torch.randint(-(2**63), 2**63 - 1, (50,), generator=source)
    positions = torch.randint(0, 2**62, (50,), generator=source)
    seeds[:4] = torch.tensor([0, -1, -(2**63), 2**63 - 1])
    positions[:3] = torch.tensor([0, 2**32, 2**32 - 1])
    expected = [uniform(*pair) for pair in zip(seeds.tolist(), positions.tolist(), strict=True)]
    assert torch_philox.uniform(seeds, positions).tolist() == expected
    assert uniform(-1, 5) == uniform(2**64 - 1, 5)
    assert all(0 <= u < 1 for u in expected)


def test_uniform_is_made_of_the_first_two_words() -> None:
    # Of counter 0 and key 0: the first known answer.
    assert uniform(0, 0) == (0x6627E8D5 * 2**21 + (0xE169C58D >> 11)) / 2**53


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ties", [False, True])
def test_torch_draws_what_the_reference_draws(seed: int, ties: bool) -> None:
    logits, batch = inputs(seed, rows=15, ties=ties, greedy=(seed % 3) / 2)
    logits[:, 7] = -torch.inf
    before = logits.clone()
    got = make(CONFIG)(logits, batch)
    assert got.dtype == torch.int64
    assert got.tolist() == reference(CONFIG)(logits, batch).tolist()
    assert torch.equal(logits, before)


@pytest.mark.parametrize("seed", range(6))
def test_torch_draws_alike_when_top_p_must_look_further(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_sample, "TOP_P_CANDIDATES", (2, 5))
    logits, batch = inputs(seed, rows=15, greedy=0.1, ties=bool(seed % 2))
    assert make(CONFIG)(logits, batch).tolist() == reference(CONFIG)(logits, batch).tolist()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_torch_draws_alike_when_every_row_has_top_k(seed: int, ties: bool) -> None:
    logits, batch = inputs(seed, rows=15, greedy=0.0, ties=ties)
    batch = replace(batch, top_k=batch.top_k.clamp(1, 40))
    assert make(CONFIG)(logits, batch).tolist() == reference(CONFIG)(logits, batch).tolist()


@pytest.mark.parametrize("factory", [reference, make])
def test_greedy_takes_the_lowest_id_among_equals(factory: Any) -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, -1.0], [5.0, 5.0, 5.0, 5.0], [-3.0, -2.0, -9.0, -2.0]])
    assert factory(CONFIG)(logits, batch_of(3, temperature=0.0)).tolist() == [1, 0, 1]


def test_no_rows() -> None:
    for temperature in (0.0, 1.0):
        batch = batch_of(0, temperature=temperature)
        assert make(CONFIG)(torch.empty(0, 61), batch).shape == (0,)


@pytest.mark.parametrize("factory", [reference, make])
def test_a_row_draws_alike_in_any_batch(factory: Any) -> None:
    logits, batch = inputs(5, rows=9, greedy=0.2)
    together = factory(CONFIG)(logits, batch).tolist()
    for row in range(9):
        alone = SampleBatch(
            **{
                name: getattr(batch, name)[row : row + 1]
                for name in ("temperature", "top_k", "top_p", "min_p", "seed", "position")
            },
            all_greedy=bool(batch.temperature[row] == 0),
        )
        assert factory(CONFIG)(logits[row : row + 1], alone).tolist() == [together[row]]


# Probabilities 0.4, 0.05, 0.3, 0.05, 0.2 and which tokens each setting keeps of them.
PROBABILITIES = torch.tensor([0.4, 0.05, 0.3, 0.05, 0.2])
KEPT = {
    "everything": ({}, {0, 1, 2, 3, 4}),
    "top_k": ({"top_k": 2}, {0, 2}),
    "top_k with a tie": ({"top_k": 4}, {0, 1, 2, 3, 4}),
    "top_k as large as the vocabulary": ({"top_k": 5}, {0, 1, 2, 3, 4}),
    "top_p": ({"top_p": 0.65}, {0, 2}),
    "top_p just above a sum": ({"top_p": 0.72}, {0, 2, 4}),
    "top_p with a tie": ({"top_p": 0.93}, {0, 1, 2, 3, 4}),
    "top_p of almost nothing": ({"top_p": 1e-6}, {0}),
    "top_k before top_p": ({"top_k": 2, "top_p": 0.5}, {0}),
    "min_p": ({"min_p": 0.45}, {0, 2, 4}),
    "top_p and min_p": ({"top_p": 0.85, "min_p": 0.6}, {0, 2}),
}


@pytest.mark.parametrize(("settings", "kept"), KEPT.values(), ids=KEPT.keys())
def test_draws_follow_the_kept_distribution(settings: Any, kept: set[int]) -> None:
    draws = 4000
    logits = PROBABILITIES.log().repeat(draws, 1)
    batch = batch_of(draws, seed=1234, **settings)
    tokens = make(CONFIG)(logits, batch)
    assert tokens[:200].tolist() == reference(CONFIG)(logits[:200], batch).tolist()
    counts = torch.bincount(tokens, minlength=5)
    assert set(counts.nonzero().flatten().tolist()) == kept
    ids = sorted(kept)
    expected = PROBABILITIES[ids] / PROBABILITIES[ids].sum() * draws
    chi_square = float(((counts[ids] - expected) ** 2 / expected).sum())
    freedom = len(ids) - 1
    # Wilson and Hilferty's approximation of the quantile at 0.9999 (3.72 standard deviations).
    spread = 2 / (9 * max(freedom, 1))
    assert chi_square <= max(freedom, 1) * (1 - spread + 3.72 * math.sqrt(spread)) ** 3


def test_temperature_sharpens_the_distribution() -> None:
    draws = 4000
    logits = PROBABILITIES.log().repeat(draws, 1)
    tokens = make(CONFIG)(logits, batch_of(draws, temperature=0.5, seed=7))
    expected = PROBABILITIES**2 / (PROBABILITIES**2).sum()
    frequencies = torch.bincount(tokens, minlength=5) / draws
    assert (frequencies - expected).abs().max() < 4 * math.sqrt(0.25 / draws)
