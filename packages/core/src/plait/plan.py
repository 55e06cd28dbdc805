"""StepPlan and StepResult: what the scheduler tells the runner, and what it hears back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait.messages import ErrorInfo
    from plait_lora.commands import StoreCommands
    from plait_lora.identity import AdapterKey
    from plait_sampling.params import SamplingParams
    from plait_sampling.token_logprobs import TokenLogprobs

Int32 = NDArray[np.int32]

FailedLoad: TypeAlias = "tuple[AdapterKey, ErrorInfo]"


@dataclass(frozen=True, eq=False)
class NewRow:
    """A request that gets a row of device state.

    Attributes
    ----------
    row : int
    token_ids : ndarray, int32 [length]
        All tokens known so far: the prompt, and after a preemption the output too.
    prompt_length : int
    params : SamplingParams
    seed : int
    eos_token_ids : tuple[int, ...]
    slot : int
        Slot of the request's mix, −1 = base model only.
    prompt_logprobs : int | None
        How many the request still wants of each prompt token.
    """

    row: int
    token_ids: Int32
    prompt_length: int
    params: SamplingParams
    seed: int
    eos_token_ids: tuple[int, ...]
    slot: int
    prompt_logprobs: int | None


@dataclass(frozen=True, eq=False)
class StepPlan:
    """One step, as data. It never holds a sampled token: those stay in the rows.

    Attributes
    ----------
    commands : StoreCommands
        Adapter evictions, loads and slot assignments, done before anything else.
    new_rows : tuple[NewRow, ...]
    row : ndarray, int32 [n]
        Rows that run, in order.
    start, count : ndarray, int32 [n]
        Each runs the tokens at positions ``start … start + count − 1``.
    sample : ndarray, bool [n]
        Whether the last of them is followed by a sampled token.
    new_blocks : ndarray, int32 [sum]
        KV blocks appended to the rows' block tables by this step, row after row.
    num_new_blocks : ndarray, int32 [n]
    num_old_blocks : ndarray, int32 [n]
        How many a row had before.
    """

    commands: StoreCommands
    new_rows: tuple[NewRow, ...]
    row: Int32
    start: Int32
    count: Int32
    sample: NDArray[np.bool_]
    new_blocks: Int32
    num_new_blocks: Int32
    num_old_blocks: Int32

    @property
    def num_tokens(self) -> int:
        """Tokens that the step runs."""
        return int(self.count.sum())


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step gave.

    Attributes
    ----------
    token_start : ndarray, int32 [n + 1]
        The tokens sampled for ``plan.row[i]`` are ``token_ids[token_start[i]:token_start[i + 1]]``.
    token_ids : ndarray, int32 [sum]
        −1 where no token could be drawn, as none has a finite logit.
    logprobs : tuple[TokenLogprobs | None, ...]
        Of each row's sampled tokens, where it asked.
    prompt_logprobs : tuple[TokenLogprobs | None, ...]
        Of the prompt tokens that follow the positions each row ran, where it asked.
    loaded : tuple[AdapterKey, ...]
        Adapters whose load has finished.
    failed_loads : tuple[FailedLoad, ...]
        Adapters that could not be loaded, and why.
    row_errors : Mapping[int, ErrorInfo]
        By place in the plan: rows whose parameters cannot be honoured. Their tokens mean nothing.
    """

    token_start: Int32
    token_ids: Int32
    logprobs: tuple[TokenLogprobs | None, ...]
    prompt_logprobs: tuple[TokenLogprobs | None, ...]
    loaded: tuple[AdapterKey, ...]
    failed_loads: tuple[FailedLoad, ...] = ()
    row_errors: Mapping[int, ErrorInfo] = field(default_factory=dict)
