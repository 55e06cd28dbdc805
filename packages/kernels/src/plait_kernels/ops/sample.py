"""The op ``sample``: draw one token a row.

Static parameter: ``vocab``. The meaning is exact, in IEEE arithmetic, so that every backend draws
the same token from the same logits:

1. Temperature 0: the argmax, the lowest id among equals. Steps 2 to 6 are for the other rows.
2. scaled = logits / temperature, in float32.
3. top_k > 0: keep every token whose scaled logit is at least the k-th largest.
4. weight = exp(scaled - max(scaled)), the difference in float32, exp in float64; 0 where not kept.
5. top_p < 1: add up the weights from the largest down (float64) until the sum reaches
   top_p · (sum of all weights); keep every token whose weight is at least the last one added.
   Then min_p > 0: keep every token whose weight is at least min_p (the largest weight is 1).
6. u = ``philox.uniform(seed, position)``; the token is the smallest id whose cumulative kept
   weight (float64, in order of id) exceeds u · (sum of the kept weights).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from plait_kernels.config import DTYPES
from plait_kernels.ops.contract import Op
from plait_kernels.ops.philox import uniform
from plait_kernels.ops.random_inputs import generator, normal
from plait_kernels.sampling_types import SampleBatch

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig

TOLERANCE = dict.fromkeys(DTYPES, (0.0, 0.0))


class Sample(Protocol):
    """What a kernel for ``sample`` is."""

    def __call__(self, logits: torch.Tensor, batch: SampleBatch) -> torch.Tensor:
        """Draw a token a row, as the module says.

        Parameters
        ----------
        logits : Tensor, float32 [rows, vocab]
            No NaN, and at least one finite number a row; -∞ is a token that is never drawn.
            Not changed.
        batch : SampleBatch

        Returns
        -------
        Tensor, int64 [rows]
        """
        ...


def reference(config: OpConfig) -> Sample:
    """Make the reference: one row after another."""

    def sample(logits: torch.Tensor, batch: SampleBatch) -> torch.Tensor:
        tokens = [_sample_row(logits[row], batch, row) for row in range(logits.shape[0])]
        return torch.tensor(tokens, dtype=torch.int64, device=logits.device)

    return sample


def _sample_row(logits: torch.Tensor, batch: SampleBatch, row: int) -> int:
    top_k = int(batch.top_k[row])
    top_p, min_p = float(batch.top_p[row]), float(batch.min_p[row])
    if batch.temperature[row] == 0:
        return int((logits == logits.max()).nonzero()[0])
    scaled = logits / batch.temperature[row]
    weights = torch.exp((scaled - scaled.max()).double())
    if 0 < top_k < logits.shape[0]:
        weights[scaled < scaled.sort(descending=True).values[top_k - 1]] = 0
    if top_p < 1:
        added, target = 0.0, top_p * float(weights.sum())
        for weight in weights.sort(descending=True).values.tolist():
            added += weight
            if added >= target:
                weights[weights < weight] = 0
                break
    weights[weights < min_p] = 0
    cumulative = weights.cumsum(0)
    drawn = uniform(int(batch.seed[row]), int(batch.position[row])) * cumulative[-1]
    return int((cumulative > drawn).nonzero()[0])


def inputs(
    seed: int,
    *,
    rows: int = 9,
    vocab: int = 61,
    greedy: float = 0.3,
    ties: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
) -> tuple[torch.Tensor, SampleBatch]:
    """Make random arguments ``(logits, batch)`` that mix all the ways of drawing.

    ``greedy`` is the probability of temperature 0; ``ties`` rounds the logits to integers, so
    that many of them are equal. Logits are float32 in every case.
    """
    source = generator(seed)
    logits = 3 * normal(source, rows, vocab)
    if ties:
        logits.round_()
    temperature = torch.rand(rows, generator=source) + 0.3
    temperature[torch.rand(rows, generator=source) < greedy] = 0
    top_k = torch.randint(1, vocab + 9, (rows,), generator=source, dtype=torch.int32)
    top_k[torch.rand(rows, generator=source) < 0.4] = 0
    top_p = torch.rand(rows, generator=source).clamp(min=0.01)
    top_p[torch.rand(rows, generator=source) < 0.4] = 1
    min_p = torch.rand(rows, generator=source) * 0.3
    min_p[torch.rand(rows, generator=source) < 0.4] = 0
    batch = SampleBatch(
        temperature=temperature.to(device),
        top_k=top_k.to(device),
        top_p=top_p.to(device),
        min_p=min_p.to(device),
        seed=torch.randint(-(2**63), 2**63 - 1, (rows,), generator=source).to(device),
        position=torch.randint(0, 2**40, (rows,), generator=source).to(device),
        all_greedy=bool((temperature == 0).all()),
    )
    return logits.to(device), batch


OP = Op("sample", reference, inputs, TOLERANCE)
