"""TokenLayout: where the tokens of a plan lie in a step's tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from plait.plan import Int32, StepPlan


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """The tokens of a plan, those of each row together, the rows in the plan's order.

    Attributes
    ----------
    token_row, token_position : ndarray, int32 [tokens]
        The row of each token, and its position in the row's sequence.
    row, kv_length : ndarray, int32 [rows]
        The rows, and the length that each sequence has with this step's tokens.
    query_start : ndarray, int32 [rows + 1]
        Where the tokens of each row begin.
    last : ndarray, int32 [sampled]
        The tokens that are followed by a sampled one.
    """

    token_row: Int32
    token_position: Int32
    row: Int32
    kv_length: Int32
    query_start: Int32
    last: Int32

    @classmethod
    def of(cls, plan: StepPlan) -> TokenLayout:
        """Lay out the tokens of ``plan``."""
        query_start = np.zeros(len(plan.row) + 1, np.int32)
        np.cumsum(plan.count, out=query_start[1:])
        # Positions start … start + count − 1 of each row.
        offset = np.repeat(plan.start - query_start[:-1], plan.count)
        return cls(
            token_row=np.repeat(plan.row, plan.count),
            token_position=np.arange(query_start[-1], dtype=np.int32) + offset,
            row=plan.row,
            kv_length=plan.start + plan.count,
            query_start=query_start,
            last=query_start[1:][plan.sample] - 1,
        )
