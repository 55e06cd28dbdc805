"""The op ``apply_penalties``: make tokens that were seen or said before less likely.

Static parameter: ``vocab``. In this order, for each row and token id:

1. repetition, if the id is in the prompt or the output: a logit above 0 is divided by it, any
   other multiplied (Keskar et al., 2019);
2. frequency · (how often the id is in the output) is subtracted;
3. presence is subtracted, if the id is in the output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from plait_kernels.config import DTYPES
from plait_kernels.ops.contract import Accuracy, Op
from plait_kernels.ops.random_inputs import generator, normal
from plait_kernels.sampling_types import PenaltyBatch

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig

TOLERANCE = dict.fromkeys(DTYPES, (1e-6, 1e-6))


class ApplyPenalties(Protocol):
    """What a kernel for ``apply_penalties`` is."""

    def __call__(self, logits: torch.Tensor, batch: PenaltyBatch) -> None:
        """Apply the penalties in place, as the module says.

        Parameters
        ----------
        logits : Tensor, float32 [rows, vocab]
            Changed in place. Rows without a penalty keep their bits.
        batch : PenaltyBatch
            Token ids of a row within its length are below vocab.
        """
        ...


def reference(config: OpConfig) -> ApplyPenalties:
    """Make the reference: one row and one token after another."""

    def apply_penalties(logits: torch.Tensor, batch: PenaltyBatch) -> None:
        for row in range(logits.shape[0]):
            history = batch.token_ids[row, : int(batch.length[row])].tolist()
            output = history[int(batch.prompt_length[row]) :]
            repetition = batch.repetition[row]
            for token in set(history):
                logit = logits[row, token]
                logits[row, token] = logit / repetition if logit > 0 else logit * repetition
            for token in set(output):
                logits[row, token] -= batch.frequency[row] * output.count(token)
                logits[row, token] -= batch.presence[row]

    return apply_penalties


def inputs(
    seed: int,
    *,
    rows: int = 9,
    vocab: int = 31,
    max_length: int = 40,
    plain: float = 0.3,
    dtype: str = "float32",
    device: str = "cpu",
) -> tuple[torch.Tensor, PenaltyBatch]:
    """Make random arguments ``(logits, batch)``.

    ``plain`` is the probability that a penalty of a row is off. Token ids past a row's length are
    far out of range. Logits are float32 in every case.
    """
    source = generator(seed)
    length = torch.randint(0, max_length + 1, (rows,), generator=source, dtype=torch.int32)
    prompt_length = (torch.rand(rows, generator=source) * (length + 1)).int().clamp(max=length)
    token_ids = torch.randint(0, vocab, (rows, max_length), generator=source, dtype=torch.int32)
    token_ids[torch.arange(max_length) >= length[:, None]] = -(2**31)

    def penalty(low: float, high: float, off: float) -> torch.Tensor:
        values = torch.rand(rows, generator=source) * (high - low) + low
        values[torch.rand(rows, generator=source) < plain] = off
        return values.to(device)

    batch = PenaltyBatch(
        token_ids=token_ids.to(device),
        prompt_length=prompt_length.to(device),
        length=length.to(device),
        presence=penalty(-2, 2, 0),
        frequency=penalty(-2, 2, 0),
        repetition=penalty(0.5, 2, 1),
    )
    return normal(source, rows, vocab, device=device), batch


OP = Op("apply_penalties", reference, inputs, TOLERANCE, Accuracy())
