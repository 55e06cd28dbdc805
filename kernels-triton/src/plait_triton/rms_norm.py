"""``rms_norm``: one pass, a row a program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from plait_triton.language import launch_options
from plait_triton.norm import NormParameters, rms_norm_kernel

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig


class RMSNorm:
    """See ``plait_kernels.ops.rms_norm`` for the contract."""

    def __init__(self, parameters: NormParameters) -> None:
        self._hidden = parameters.hidden
        self._block = parameters.block
        self._warps = parameters.warps

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``x / sqrt(mean(x²) + eps) · weight``, [tokens, hidden]."""
        tokens = x.shape[0]
        y = torch.empty((tokens, self._hidden), dtype=x.dtype, device=x.device)
        if tokens:
            rms_norm_kernel[(tokens,)](
                x,
                weight,
                y,
                x.stride(0),
                eps,
                HIDDEN=self._hidden,
                BLOCK=self._block,
                num_warps=self._warps,
                **launch_options(x.device),
            )
        return y


def make(config: OpConfig) -> RMSNorm:
    """Make the implementation for one config."""
    return RMSNorm(NormParameters.of(config))
