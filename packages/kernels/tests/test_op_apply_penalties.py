from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from plait_kernels.config import OpConfig
from plait_kernels.ops.apply_penalties import inputs, reference
from plait_kernels.torch_backend.apply_penalties import make

if TYPE_CHECKING:
    from plait_kernels.sampling_types import PenaltyBatch

CONFIG = OpConfig.of("apply_penalties", dtype="float32", bucket="decode", max_tokens=16, vocab=31)


def by_hand(logits: torch.Tensor, batch: PenaltyBatch) -> torch.Tensor:
    """The definition with one-hot counts: repetition over all tokens, the others over output."""
    out = logits.clone()
    for row in range(logits.shape[0]):
        tokens = batch.token_ids[row, : batch.length[row]].long()
        prompt = int(batch.prompt_length[row])
        seen = torch.bincount(tokens, minlength=logits.shape[1]) > 0
        counts = torch.bincount(tokens[prompt:], minlength=logits.shape[1])
        factor = torch.where(seen, batch.repetition[row], 1.0)
        out[row] = torch.where(out[row] > 0, out[row] / factor, out[row] * factor)
        out[row] -= batch.frequency[row] * counts
        out[row] -= batch.presence[row] * (counts > 0)
    return out


@pytest.mark.parametrize("factory", [reference, make])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_definition(factory: object, seed: int) -> None:
    assert callable(factory)
    logits, batch = inputs(seed)
    expected = by_hand(logits, batch)
    factory(CONFIG)(logits, batch)
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("factory", [reference, make])
def test_rows_without_a_penalty_keep_their_bits(factory: object) -> None:
    assert callable(factory)
    logits, batch = inputs(7, rows=4)
    plain = torch.tensor([True, False, True, False])
    batch = replace(
        batch,
        length=torch.full((4,), 20, dtype=torch.int32),
        token_ids=batch.token_ids.clamp(min=0),
        presence=torch.where(plain, 0.0, 0.5),
        frequency=torch.where(plain, 0.0, 0.25),
        repetition=torch.where(plain, 1.0, 1.5),
    )
    before = logits.clone()
    factory(CONFIG)(logits, batch)
    assert torch.equal(logits[plain], before[plain])
    assert (logits != before)[~plain].any(dim=1).all()
