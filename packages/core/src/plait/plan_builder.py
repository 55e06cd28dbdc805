"""Collects the rows of a step while the scheduler chooses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plait.plan import NewRow, StepPlan

if TYPE_CHECKING:
    from plait.request import Request
    from plait_lora.commands import StoreCommands


class PlanBuilder:
    """A StepPlan in the making.

    Attributes
    ----------
    budget : int
        Tokens that may still be added.
    requests : list[tuple[Request, int]]
        The requests in the plan, each with its number of preemptions so far.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.requests: list[tuple[Request, int]] = []
        self._new_rows: list[NewRow] = []
        self._start: list[int] = []
        self._count: list[int] = []
        self._sample: list[bool] = []
        self._blocks: list[int] = []
        self._num_new: list[int] = []
        self._num_old: list[int] = []

    def add_row(self, request: Request) -> None:
        """Give ``request`` its row; call before ``add``."""
        wants = request.params.prompt_logprobs if request.wants_prompt_logprobs else None
        row = NewRow(
            row=request.row,
            token_ids=np.array(request.tokens, np.int32),
            prompt_length=request.prompt_length,
            params=request.params,
            seed=request.message.seed,
            eos_token_ids=request.message.eos_token_ids,
            slot=-1 if request.lease is None else request.lease.slot,
            prompt_logprobs=wants,
        )
        self._new_rows.append(row)

    def add(self, request: Request, count: int, blocks: list[int], *, samples: bool) -> None:
        """Run the next ``count`` tokens of ``request``, with ``blocks`` added to its table."""
        self.budget -= count
        self.requests.append((request, request.num_preemptions))
        self._start.append(request.num_computed)
        self._count.append(count)
        self._sample.append(samples)
        self._blocks += blocks
        self._num_new.append(len(blocks))
        self._num_old.append(len(request.blocks))

    def build(self, commands: StoreCommands) -> StepPlan:
        """Freeze the plan."""
        return StepPlan(
            commands=commands,
            new_rows=tuple(self._new_rows),
            row=np.array([request.row for request, _ in self.requests], np.int32),
            start=np.array(self._start, np.int32),
            count=np.array(self._count, np.int32),
            sample=np.array(self._sample, bool),
            new_blocks=np.array(self._blocks, np.int32),
            num_new_blocks=np.array(self._num_new, np.int32),
            num_old_blocks=np.array(self._num_old, np.int32),
        )
