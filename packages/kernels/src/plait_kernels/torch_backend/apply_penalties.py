"""``apply_penalties`` by counting, for the rows that have a penalty only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.ops.apply_penalties import ApplyPenalties
    from plait_kernels.sampling_types import PenaltyBatch


def make(config: OpConfig) -> ApplyPenalties:
    """Make the kernel for one config."""

    def apply_penalties(logits: torch.Tensor, batch: PenaltyBatch) -> None:
        repeated = (batch.repetition != 1).nonzero().squeeze(1)
        if repeated.shape[0]:
            _apply_repetition(logits, batch, repeated)
        counted = ((batch.frequency != 0) | (batch.presence != 0)).nonzero().squeeze(1)
        if counted.shape[0]:
            _apply_frequency_and_presence(logits, batch, counted)

    return apply_penalties


def _apply_repetition(logits: torch.Tensor, batch: PenaltyBatch, rows: torch.Tensor) -> None:
    seen = _count(batch, rows, torch.zeros_like(batch.length), logits) > 0
    old = logits[rows]
    repetition = batch.repetition[rows, None]
    penalised = torch.where(old > 0, old / repetition, old * repetition)
    logits[rows] = torch.where(seen, penalised, old)


def _apply_frequency_and_presence(
    logits: torch.Tensor, batch: PenaltyBatch, rows: torch.Tensor
) -> None:
    count = _count(batch, rows, batch.prompt_length, logits)
    new = logits[rows].sub_(batch.frequency[rows, None] * count)
    logits[rows] = new.sub_(batch.presence[rows, None] * (count > 0))


def _count(
    batch: PenaltyBatch, rows: torch.Tensor, start: torch.Tensor, logits: torch.Tensor
) -> torch.Tensor:
    """Count each id among a row's tokens from ``start`` to its length: float32 [rows, vocab]."""
    places = torch.arange(batch.token_ids.shape[1], device=rows.device)
    meant = (places >= start[rows, None]) & (places < batch.length[rows, None])
    # What lies past the length may be no token id at all: it adds 0 to the count of id 0.
    ids = batch.token_ids[rows].long().where(meant, 0)
    counts = torch.zeros(rows.shape[0], logits.shape[1], device=rows.device)
    return counts.scatter_add_(1, ids, meant.float())
