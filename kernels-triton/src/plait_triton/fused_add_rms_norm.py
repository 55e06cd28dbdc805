"""``fused_add_rms_norm``: one pass, a row a program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from plait_triton.language import launch_options
from plait_triton.norm import NormParameters, fused_add_rms_norm_kernel

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig


class FusedAddRMSNorm:
    """See ``plait_kernels.ops.fused_add_rms_norm`` for the contract."""

    def __init__(self, parameters: NormParameters) -> None:
        self._hidden = parameters.hidden
        self._block = parameters.block
        self._warps = parameters.warps

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """Add x to the residual in place and return the norm of the sum, [tokens, hidden]."""
        tokens = x.shape[0]
        y = torch.empty((tokens, self._hidden), dtype=x.dtype, device=x.device)
        if tokens:
            fused_add_rms_norm_kernel[(tokens,)](
                x,
                residual,
                weight,
                y,
                x.stride(0),
                residual.stride(0),
                eps,
                HIDDEN=self._hidden,
                BLOCK=self._block,
                num_warps=self._warps,
                **launch_options(x.device),
            )
        return y


def make(config: OpConfig) -> FusedAddRMSNorm:
    """Make the implementation for one config."""
    return FusedAddRMSNorm(NormParameters.of(config))
