"""The runner: executes a StepPlan on the device."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from plait.home_process import HomeProcess
from plait.plan import Int32, StepPlan, StepResult
from plait.step_outputs import StepOutputs
from plait.token_layout import TokenLayout
from plait_kernels.attention_types import AttentionBatch
from plait_kernels.config import BUCKETS
from plait_kernels.transfer import Download
from plait_models.model import StepInputs
from plait_sampling.token_logprobs import TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from plait.adapter_device import AdapterDevice
    from plait.messages import ErrorInfo
    from plait.padded_steps import PaddedSteps
    from plait.plan import FailedLoad
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
    failed_loads : tuple[FailedLoad, ...]
    row_errors : Mapping[int, ErrorInfo]
        As in ``StepResult``.
    prompt_logprobs : Mapping[int, Sequence[LogprobsDownload]]
        By row of the plan, those that asked: parts that follow each other.
    token_ids : Download | None
        None: no row draws one.
    logprobs : SampledLogprobs | None
        Of the rows that draw; None where none of them asked.
    """

    sampled: npt.NDArray[np.bool_]
    loaded: tuple[AdapterKey, ...] = ()
    failed_loads: tuple[FailedLoad, ...] = ()
    row_errors: Mapping[int, ErrorInfo] = field(default_factory=dict)
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
            self.failed_loads,
            self.row_errors,
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
    padded_steps : PaddedSteps | None
        Runs the steps that it has a size for; None: every step is computed as it comes.
    """

    def __init__(
        self,
        model: Model,
        rows: Rows,
        sampler: Sampler,
        kv: torch.Tensor,
        adapters: AdapterDevice | None,
        padded_steps: PaddedSteps | None = None,
    ) -> None:
        self.model = model
        self.rows = rows
        self.sampler = sampler
        self.kv = kv
        self.adapters = adapters
        self.padded_steps = padded_steps
        self._home = HomeProcess(kv.device)

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
        self._home.enter()
        failed_loads = self.adapters.execute(plan.commands) if self.adapters else ()
        failed = {key for key, _ in failed_loads}
        loaded = tuple(load.key for load in plan.commands.loads if load.key not in failed)
        started = Started(plan.sample, loaded, failed_loads, self.rows.apply(plan))
        if not len(plan.row):
            return started
        outputs = self._run(plan)
        started = replace(started, prompt_logprobs=self._score_prompts(plan, outputs))
        if not plan.sample.any():
            return started
        drawn = self._sample(plan, outputs.logits)
        token_ids = Download(drawn.token_ids.to(torch.int32))
        return replace(started, token_ids=token_ids, logprobs=drawn.logprobs)

    def _run(self, plan: StepPlan) -> StepOutputs:
        if self.padded_steps is not None:
            size = self.padded_steps.size_of(plan)
            if size is not None:
                return self.padded_steps.run(plan, size)
        layout = TokenLayout.of(plan)
        inputs = self._inputs(plan, layout)
        hidden = self.model.forward(inputs)
        last = self.rows.upload(layout.last)
        logits = self._logits(hidden[last], plan.row[plan.sample], inputs.bucket)
        return StepOutputs(hidden, logits, inputs.bucket)

    def _inputs(self, plan: StepPlan, layout: TokenLayout) -> StepInputs:
        rows = self.rows
        row = rows.upload(layout.token_row.astype(np.int64))
        positions = rows.upload(layout.token_position.astype(np.int64))
        max_kv = int(layout.kv_length.max())
        num_blocks = -(-max_kv // rows.block_size)
        attention = AttentionBatch(
            query_start=rows.upload(layout.query_start),
            kv_length=rows.upload(layout.kv_length),
            block_table=rows.block_table[rows.upload(plan.row.astype(np.int64)), :num_blocks],
            max_query=int(plan.count.max()),
            max_kv=max_kv,
        )
        lora, groups = self._lora(layout.token_row)
        return StepInputs(
            token_ids=rows.tokens[row, positions].long(),
            positions=positions,
            slot_mapping=rows.kv_slots(row, positions),
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
        self, plan: StepPlan, outputs: StepOutputs
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
                of_row = outputs.hidden[at : at + count]
                scored[place] = self._score_prompt(asked.k, row, start, of_row, outputs.bucket)
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
