"""``sample`` over whole rows, without sorting the vocabulary where a few tokens decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from plait_kernels.torch_backend.philox import uniform

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.ops.sample import Sample
    from plait_kernels.sampling_types import SampleBatch

TOP_P_CANDIDATES = (128, 1024)
"""How many of the largest logits top_p looks at, in turn, before it sorts a whole row."""

MAX_CANDIDATES = 1024
"""With top_k below this in every row, the largest logits are taken out and the rest is left."""


def make(config: OpConfig) -> Sample:
    """Make the kernel for one config."""

    def sample(logits: torch.Tensor, batch: SampleBatch) -> torch.Tensor:
        if batch.all_greedy:
            return logits.argmax(dim=-1)
        rows = batch.temperature.nonzero().squeeze(1)
        if rows.shape[0] == 0:
            return logits.argmax(dim=-1)
        if rows.shape[0] == logits.shape[0]:
            return _draw(logits / batch.temperature[:, None], batch)
        tokens = logits.argmax(dim=-1)
        drawn = _select(batch, rows)
        tokens[rows] = _draw(logits[rows].div_(drawn.temperature[:, None]), drawn)
        return tokens

    return sample


def _select(batch: SampleBatch, rows: torch.Tensor) -> SampleBatch:
    return type(batch)(
        temperature=batch.temperature[rows],
        top_k=batch.top_k[rows],
        top_p=batch.top_p[rows],
        min_p=batch.min_p[rows],
        seed=batch.seed[rows],
        position=batch.position[rows],
        all_greedy=False,
    )


def _draw(scaled: torch.Tensor, batch: SampleBatch) -> torch.Tensor:
    """Draw from logits that are divided by the temperature already; ``scaled`` is overwritten."""
    count = int(batch.top_k.max()) + 1
    if batch.top_k.min() > 0 and count <= MAX_CANDIDATES and count < scaled.shape[1]:
        values, ids = scaled.topk(count, dim=-1)
        k = batch.top_k.long()[:, None]
        # Without a tie at the k-th value, all that top_k keeps is among the candidates.
        if (values.gather(1, k - 1) > values.gather(1, k)).all():
            ids, order = ids.sort(dim=-1)
            drawn = _draw_from_all(values.gather(1, order), batch)
            return ids.gather(1, drawn[:, None]).squeeze(1)
    return _draw_from_all(scaled, batch)


def _draw_from_all(scaled: torch.Tensor, batch: SampleBatch) -> torch.Tensor:
    """Draw an index of each row; ``scaled`` is overwritten."""
    _keep_top_k(scaled, batch.top_k)
    scaled.sub_(scaled.amax(dim=-1, keepdim=True))
    weights = scaled.double().exp_()
    threshold = batch.min_p.double()
    limited = (batch.top_p < 1).nonzero().squeeze(1)
    if limited.shape[0]:
        target = batch.top_p[limited].double() * _take(weights, limited).sum(dim=-1)
        smallest = _smallest_of_top_p(_take(scaled, limited), target)
        threshold[limited] = torch.maximum(threshold[limited], smallest)
    if threshold.any():
        weights.masked_fill_(weights < threshold[:, None], 0.0)
    cumulative = weights.cumsum(dim=-1)
    drawn = uniform(batch.seed, batch.position) * cumulative[:, -1]
    return torch.searchsorted(cumulative, drawn[:, None], right=True).squeeze(1)


def _keep_top_k(scaled: torch.Tensor, top_k: torch.Tensor) -> None:
    """Set what top_k drops to -∞, in place."""
    vocab = scaled.shape[1]
    rows = ((top_k > 0) & (top_k < vocab)).nonzero().squeeze(1)
    if rows.shape[0] == 0:
        return
    k = top_k[rows].long()
    largest = _take(scaled, rows).topk(int(k.max()), dim=-1).values
    kth = scaled.new_full((scaled.shape[0], 1), -torch.inf)
    kth[rows] = largest.gather(1, k[:, None] - 1)
    scaled.masked_fill_(scaled < kth, -torch.inf)


def _take(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the named rows, ascending, without a copy where they are all there are."""
    return x if rows.shape[0] == x.shape[0] else x[rows]


def _smallest_of_top_p(shifted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the smallest weight that top_p keeps, for each row.

    Parameters
    ----------
    shifted : Tensor, float32 [rows, vocab]
        Logarithms of the weights.
    target : Tensor, float64 [rows]
        The sum that the kept weights must reach.

    Returns
    -------
    Tensor, float64 [rows]
    """
    vocab = shifted.shape[1]
    smallest, reached = target.clone(), torch.zeros_like(target, dtype=torch.bool)
    for count in (*(n for n in TOP_P_CANDIDATES if n < vocab), vocab):
        rows = (~reached).nonzero().squeeze(1)
        if rows.shape[0]:
            smallest[rows], reached[rows] = _last_added(_take(shifted, rows), target[rows], count)
    return smallest


def _last_added(
    shifted: torch.Tensor, target: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add up the ``count`` largest weights until they reach the target, if they do."""
    if count < shifted.shape[1]:
        largest = shifted.topk(count, dim=-1).values
    else:
        largest = shifted.sort(dim=-1, descending=True).values
    weights = largest.double().exp_()
    added = weights.cumsum(dim=-1)
    last = torch.searchsorted(added, target[:, None]).clamp_(max=count - 1)
    return weights.gather(1, last).squeeze(1), added[:, -1] >= target
