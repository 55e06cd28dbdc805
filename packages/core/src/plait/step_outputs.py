"""StepOutputs: what the model gave in a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from plait.plan import StepPlan


@dataclass(frozen=True, eq=False)
class StepOutputs:
    """What the model gave in a step, on the device.

    Attributes
    ----------
    hidden : Tensor [tokens, hidden]
        After the last norm.
    logits : Tensor, float32 [rows, vocab]
        Of the tokens that are followed by a sampled one.
    bucket : int
        Index in ``plait_kernels.config.BUCKETS`` of the kernels that ran.
    """

    hidden: torch.Tensor
    logits: torch.Tensor
    bucket: int

    def of(self, plan: StepPlan) -> StepOutputs:
        """Leave out what padding gave."""
        hidden, logits = self.hidden[: plan.num_tokens], self.logits[: int(plan.sample.sum())]
        return replace(self, hidden=hidden, logits=logits)
