"""``rms_norm`` in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from plait_cpu.library import DTYPES, load_library

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.ops.rms_norm import RMSNorm


def make(config: OpConfig) -> RMSNorm:
    """Make the kernel for one config."""
    norm = load_library().plait_norm

    def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        y = torch.empty(x.shape, dtype=x.dtype)
        tokens, hidden = x.shape
        norm(
            DTYPES[x.dtype],
            x.data_ptr(),
            x.stride(0),
            None,
            0,
            weight.data_ptr(),
            y.data_ptr(),
            tokens,
            hidden,
            eps,
            torch.get_num_threads(),
        )
        return y

    return rms_norm
