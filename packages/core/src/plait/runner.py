"""The runner: executes a StepPlan on the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from plait.plan import Int32, StepPlan, StepResult
from plait_kernels.attention_types import AttentionBatch
from plait_kernels.config import BUCKETS
from plait_kernels.transfer import Download
from plait_models.model import StepInputs
from plait_sampling.token_logprobs import TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from plait.adapter_device import AdapterDevice
    from plait.decode_steps import DecodeSteps
    from plait.rows import Rows
    from plait_kernels.lora_types import LoraBatch
    from plait_lora.identity import AdapterKey
    from plait_models.model import Model
    from plait_sampling.logprobs import LogprobsDownload, SampledLogprobs
    from plait_sampling.sampler import Sampler, SamplerOutput

_DECODE = BUCKETS.index("decode")
_PREFILL = BUCKETS.index("prefill")

_SCORED_AT_ONCE = 256
"""Prompt positions whose logits exist at the same time."""


class StartedStep(Protocol):
    """A step that the device works on."""

    def result(self) -> StepResult:
        """Wait for the step and return what it gave."""


class StepRunner(Protocol):
    """What EngineCore needs of a runner."""

    def start(self, plan: StepPlan) -> StartedStep:
        """Hand ``plan`` to the device; on a GPU it is not waited for."""


@dataclass(frozen=True, eq=False)
class Started:
    """A step whose results are on their way to the host.

    Attributes
    ----------
    sampled : ndarray, bool [n]
        Which rows of the plan draw a token.
    loaded : tuple[AdapterKey, ...]
        As in ``StepResult``.
    prompt_logprobs : Mapping[int, Sequence[LogprobsDownload]]
        By row of the plan, those that asked: parts that follow each other.
    token_ids : Download | None
        None: no row draws one.
    logprobs : SampledLogprobs | None
        Of the rows that draw; None where none of them asked.
    """

    sampled: npt.NDArray[np.bool_]
    loaded: tuple[AdapterKey, ...]
    prompt_logprobs: Mapping[int, Sequence[LogprobsDownload]] = field(default_factory=dict)
    token_ids: Download | None = None
    logprobs: SampledLogprobs | None = None

    def result(self) -> StepResult:
        """Wait for the results."""
        rows = len(self.sampled)
        token_start = np.zeros(rows + 1, np.int32)
        np.cumsum(self.sampled, out=token_start[1:])
        token_ids = np.zeros(0, np.int32) if self.token_ids is None else self.token_ids.wait()
        drawing = np.flatnonzero(self.sampled).tolist()
        of_drawing = {} if self.logprobs is None else self.logprobs.wait()
        logprobs = {drawing[place]: one for place, one in of_drawing.items()}
        prompt_logprobs = {
            place: TokenLogprobs.concatenate([part.wait() for part in parts])
            for place, parts in self.prompt_logprobs.items()
        }
        return StepResult(
            token_start,
            token_ids,
            tuple(logprobs.get(place) for place in range(rows)),
            tuple(prompt_logprobs.get(place) for place in range(rows)),
            self.loaded,
        )


class Runner:
    """Runs steps: adapter commands, rows, model, sampler.

    Parameters
    ----------
    model : Model
    rows : Rows
    sampler : Sampler
    kv : Tensor [num_blocks, layers, 2, block_size, kv_heads, head_dim]
    adapters : AdapterDevice | None
        None: no LoRA.
    decode_steps : DecodeSteps | None
        Runs the steps that it takes; None: every step is computed as it comes.
    """

    def __init__(
        self,
        model: Model,
        rows: Rows,
        sampler: Sampler,
        kv: torch.Tensor,
        adapters: AdapterDevice | None,
        decode_steps: DecodeSteps | None = None,
    ) -> None:
        self.model = model
        self.rows = rows
        self.sampler = sampler
        self.kv = kv
        self.adapters = adapters
        self.decode_steps = decode_steps

    @torch.inference_mode()
    def start(self, plan: StepPlan) -> Started:
        """Hand a plan to the device.

        Steps run in the order in which they are started, and each sees what those before it left
        in the rows, so that a step may be started before the result of the last one is known.

        Parameters
        ----------
        plan : StepPlan

        Returns
        -------
        Started
        """
        loaded = self.adapters.execute(plan.commands) if self.adapters else ()
        self.rows.apply(plan)
        if not len(plan.row):
            return Started(plan.sample, loaded)
        prompt_logprobs: Mapping[int, Sequence[LogprobsDownload]] = {}
        if self.decode_steps is not None and self.decode_steps.takes(plan):
            logits = self.decode_steps.run(plan)
        else:
            inputs = self._inputs(plan)
            hidden = self.model.forward(inputs)
            prompt_logprobs = self._score_prompts(plan, hidden, inputs.bucket)
            last = self.rows.upload((np.cumsum(plan.count) - 1)[plan.sample])
            logits = self._logits(hidden[last], plan.row[plan.sample], inputs.bucket)
        if not plan.sample.any():
            return Started(plan.sample, loaded, prompt_logprobs)
        drawn = self._sample(plan, logits)
        token_ids = Download(drawn.token_ids.to(torch.int32))
        return Started(plan.sample, loaded, prompt_logprobs, token_ids, drawn.logprobs)

    def _inputs(self, plan: StepPlan) -> StepInputs:
        rows = self.rows
        query_start = np.zeros(len(plan.row) + 1, np.int32)
        np.cumsum(plan.count, out=query_start[1:])
        # Positions start … start + count − 1 of each row, laid end to end.
        offset = np.repeat(plan.start - query_start[:-1], plan.count)
        positions = rows.upload(np.arange(query_start[-1], dtype=np.int64) + offset)
        row_of_token = rows.upload(np.repeat(plan.row, plan.count).astype(np.int64))
        block = rows.block_table[row_of_token, positions // rows.block_size].long()
        kv_length = plan.start + plan.count
        max_kv = int(kv_length.max())
        num_blocks = -(-max_kv // rows.block_size)
        attention = AttentionBatch(
            query_start=rows.upload(query_start),
            kv_length=rows.upload(kv_length),
            block_table=rows.block_table[rows.upload(plan.row.astype(np.int64)), :num_blocks],
            max_query=int(plan.count.max()),
            max_kv=max_kv,
        )
        lora, groups = self._lora(np.repeat(plan.row, plan.count))
        return StepInputs(
            token_ids=rows.tokens[row_of_token, positions].long(),
            positions=positions,
            slot_mapping=block * rows.block_size + positions % rows.block_size,
            kv=self.kv,
            attention=attention,
            lora=lora,
            site_groups=groups,
            bucket=_DECODE if attention.max_query == 1 else _PREFILL,
        )

    def _lora(self, row: Int32) -> tuple[LoraBatch | None, frozenset[str]]:
        """Describe tokens, each of the sequence in the row beside it."""
        if self.adapters is None:
            return None, frozenset()
        return self.adapters.batch(self.rows.slot[row])

    def _sample(self, plan: StepPlan, logits: torch.Tensor) -> SamplerOutput:
        """Draw the next token of the rows that reached their end."""
        rows = self.rows
        row = plan.row[plan.sample]
        length = (plan.start + plan.count)[plan.sample]
        drawn = self.sampler.sample(
            logits,
            row,
            rows.sampling,
            length=length,
            token_ids=rows.tokens,
            prompt_length=rows.prompt_length,
        )
        rows.append(row, length, drawn.token_ids)
        return drawn

    def _logits(self, hidden: torch.Tensor, row: Int32, bucket: int) -> torch.Tensor:
        """Logits of hidden states, each of the sequence in the row beside it."""
        lora, groups = self._lora(row)
        return self.model.logits(hidden, lora, groups, bucket)

    def _score_prompts(
        self, plan: StepPlan, hidden: torch.Tensor, bucket: int
    ) -> dict[int, list[LogprobsDownload]]:
        """Logprobs of the prompt tokens that follow the positions each row ran, where asked."""
        first = np.cumsum(plan.count) - plan.count
        scored = {}
        for place, row in enumerate(plan.row.tolist()):
            asked = self.rows.prompt_logprobs[row]
            if asked is None:
                continue
            start, at = int(plan.start[place]), int(first[place])
            # The last token of a prompt is followed by none of it.
            count = min(int(plan.count[place]), asked.prompt_length - 1 - start)
            if count > 0:
                of_row = hidden[at : at + count]
                scored[place] = self._score_prompt(asked.k, row, start, of_row, bucket)
        return scored

    def _score_prompt(
        self, k: int, row: int, start: int, hidden: torch.Tensor, bucket: int
    ) -> list[LogprobsDownload]:
        target = self.rows.tokens[row, start + 1 : start + 1 + len(hidden)].long()
        parts = []
        for i in range(0, len(hidden), _SCORED_AT_ONCE):
            part = slice(i, min(i + _SCORED_AT_ONCE, len(hidden)))
            of = np.full(part.stop - part.start, row, np.int32)
            logits = self._logits(hidden[part], of, bucket)
            parts.append(self.sampler.prompt_logprobs(logits, target[part], k))
        return parts
