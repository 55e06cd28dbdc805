"""``silu_and_mul`` in float32, rounded once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from plait_kernels import OpConfig
    from plait_kernels.ops.silu_and_mul import SiluAndMul


def make(config: OpConfig) -> SiluAndMul:
    """Make the kernel for one config."""

    def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.float().chunk(2, dim=-1)
        return F.silu(gate).mul_(up).to(x.dtype)

    return silu_and_mul
