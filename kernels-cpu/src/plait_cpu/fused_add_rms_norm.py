"""``fused_add_rms_norm`` in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait_cpu.norm import make_norm

if TYPE_CHECKING:
    import torch

    from plait_kernels.config import OpConfig
    from plait_kernels.ops.fused_add_rms_norm import FusedAddRMSNorm


def make(config: OpConfig) -> FusedAddRMSNorm:
    """Make the kernel for one config."""
    norm = make_norm()

    def fused_add_rms_norm(
        x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        return norm(x, residual, weight, eps)

    return fused_add_rms_norm
