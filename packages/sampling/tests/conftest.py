"""Samplers on the ops' references, and one step of state for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from plait_kernels.config import OpConfig
from plait_kernels.ops import load_op
from plait_sampling import Sampler, SamplerOutput, SamplingParams, SamplingRows

if TYPE_CHECKING:
    from plait_kernels.sampling_types import SampleBatch

VOCAB = 23


def _reference(op: str) -> Any:
    config = OpConfig.of(op, dtype="float32", bucket="decode", max_tokens=64, vocab=VOCAB)
    return load_op(op).reference(config)


@dataclass
class Bench:
    """Runs a Sampler on given rows, and keeps the logits that its ``sample`` op saw."""

    vocab: int = VOCAB
    processed: list[torch.Tensor] = field(default_factory=list)

    def sample(
        self,
        logits: torch.Tensor,
        params: list[SamplingParams],
        histories: list[tuple[list[int], list[int]]],
        *,
        seeds: list[int] | None = None,
        eos: tuple[int, ...] = (),
    ) -> SamplerOutput:
        """Draw for rows with these (prompt, output) histories; state rows are in other order."""
        n = len(params)
        max_rows = n + 3
        rows = np.arange(n, dtype=np.int32)[::-1] + 2
        state = SamplingRows(max_rows)
        longest = max(len(prompt) + len(output) for prompt, output in histories)
        token_ids = torch.full((max_rows, longest + 2), -(2**31), dtype=torch.int32)
        prompt_length = torch.zeros(max_rows, dtype=torch.int32)
        length = np.zeros(n, np.int32)
        for place, (prompt, output) in enumerate(histories):
            row = int(rows[place])
            state.set(row, params[place], seeds[place] if seeds else place, eos)
            length[place] = len(prompt) + len(output)
            token_ids[row, : length[place]] = torch.tensor(prompt + output)
            prompt_length[row] = len(prompt)
        draw = _reference("sample")

        def sample(seen: torch.Tensor, batch: SampleBatch) -> torch.Tensor:
            self.processed.append(seen.clone())
            drawn: torch.Tensor = draw(seen, batch)
            return drawn

        sampler = Sampler(_reference("apply_penalties"), sample)
        return sampler.sample(
            logits,
            rows,
            state,
            length=length,
            token_ids=token_ids,
            prompt_length=prompt_length,
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def source() -> torch.Generator:
    return torch.Generator().manual_seed(11)
