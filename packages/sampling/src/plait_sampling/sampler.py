"""Sampler: from the logits of a step to one token a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch

from plait_kernels.config import BUCKETS, OpConfig
from plait_kernels.sampling_types import PenaltyBatch, SampleBatch
from plait_kernels.transfer import to_device, upload
from plait_sampling import masks
from plait_sampling.logprobs import (
    LogprobsDownload,
    SampledLogprobs,
    prompt_logprobs,
    sampled_logprobs,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from plait_sampling.rows import SamplingRows

ApplyPenalties: TypeAlias = Callable[[torch.Tensor, PenaltyBatch], None]
Sample: TypeAlias = Callable[[torch.Tensor, SampleBatch], torch.Tensor]


SAMPLING_OPS = ("apply_penalties", "sample")
"""The ops that a Sampler calls."""


class Table(Protocol):
    """The part of a KernelTable that is used here."""

    def bind(self, op: str, dtype: str, **params: Any) -> tuple[Any, ...]:
        """Return the implementations of ``op``, one a bucket."""


def sampling_configs(vocab_size: int, max_rows: int) -> tuple[OpConfig, ...]:
    """Name the ops that a Sampler needs from a KernelTable.

    Parameters
    ----------
    vocab_size : int
    max_rows : int
        The most rows that one call will have.
    """
    return tuple(
        OpConfig.of(op, dtype="float32", bucket=bucket, max_tokens=max_rows, vocab=vocab_size)
        for op in SAMPLING_OPS
        for bucket in BUCKETS
    )


@dataclass(frozen=True, eq=False)
class SamplerOutput:
    """What was drawn.

    Attributes
    ----------
    token_ids : Tensor, int64 [rows]
        On the device; −1 where no token can be drawn: the best logit is NaN or infinite, or every
        token is excluded.
    logprobs : SampledLogprobs | None
        Of the rows that asked; None where no row did.
    """

    token_ids: torch.Tensor
    logprobs: SampledLogprobs | None


class Sampler:
    """Draws one token for every row of logits.

    Logprobs are those of the raw logits. Then, in this order: allowed tokens, tokens held back by
    ``min_tokens``, ``logit_bias``, penalties, and the ``sample`` op with temperature, top-k,
    top-p and min-p. A row without one of these is not touched by it, whoever shares its batch.

    Parameters
    ----------
    apply_penalties, sample : Callable
        Implementations of the ops of these names.
    """

    def __init__(self, apply_penalties: ApplyPenalties, sample: Sample) -> None:
        self._apply_penalties = apply_penalties
        self._sample = sample

    @classmethod
    def from_table(cls, table: Table, vocab_size: int) -> Sampler:
        """Bind the ops of ``sampling_configs``; a step samples with the decode bucket's."""
        decode = BUCKETS.index("decode")
        bound = [table.bind(op, "float32", vocab=vocab_size)[decode] for op in SAMPLING_OPS]
        return cls(*bound)

    def sample(
        self,
        logits: torch.Tensor,
        rows: npt.NDArray[np.integer],
        params: SamplingRows,
        *,
        length: npt.NDArray[np.integer],
        token_ids: torch.Tensor,
        prompt_length: torch.Tensor,
    ) -> SamplerOutput:
        """Draw one token a row.

        The device is not waited for.

        Parameters
        ----------
        logits : Tensor, float32 [n, vocab]
            Raw logits; modified in place.
        rows : ndarray, integer [n]
            The row of state that each belongs to, on the host.
        params : SamplingRows
        length : ndarray, integer [n]
            Tokens of prompt and output that each row has, on the host: the position of the token
            that is drawn.
        token_ids : Tensor, int32 [max rows, max length]
            Token history of every row of state, prompt and output.
        prompt_length : Tensor, int32 [max rows]
            Prompt tokens of every row of state.

        Returns
        -------
        SamplerOutput
        """
        extras = params.extras(rows)
        device = logits.device
        index = upload(rows.astype(np.int64), device)
        position = upload(length.astype(np.int64), device)

        asked = [place for place, extra in enumerate(extras) if extra.logprobs is not None]
        at_asked = upload(np.array(asked, np.int64), device) if asked else None
        raw = None if at_asked is None else logits[at_asked]  # what follows works in place

        masks.apply_allowed(logits, extras)
        masks.hold_back(logits, extras, position - prompt_length[index])
        masks.apply_bias(logits, extras)
        penalised = [place for place, extra in enumerate(extras) if extra.penalised]
        if penalised:
            at = to_device(torch.tensor(penalised), device)
            longest = int(length[penalised].max())
            batch = params.gather_penalties(
                index[at],
                token_ids[:, :longest][index[at]],
                prompt_length[index[at]],
                position[at].to(torch.int32),
            )
            some = logits[at]
            self._apply_penalties(some, batch)
            logits[at] = some
        cannot = masks.replace_rows_without_a_best(logits)
        drawn = self._sample(logits, params.gather(rows, index, position))
        drawn = drawn.masked_fill(cannot, -1)

        if raw is None or at_asked is None:
            return SamplerOutput(drawn, None)
        counts = [extra.logprobs for extra in extras if extra.logprobs is not None]
        return SamplerOutput(
            drawn, sampled_logprobs(raw, drawn[at_asked].clamp_min(0), asked, counts)
        )

    def prompt_logprobs(
        self, logits: torch.Tensor, next_token_ids: torch.Tensor, k: int
    ) -> LogprobsDownload:
        """Work out the logprobs of prompt tokens: see ``logprobs.prompt_logprobs``."""
        return prompt_logprobs(logits, next_token_ids, k)
