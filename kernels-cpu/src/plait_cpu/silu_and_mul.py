"""``silu_and_mul`` in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from plait_cpu.library import DTYPES, load_library

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.ops.silu_and_mul import SiluAndMul


def make(config: OpConfig) -> SiluAndMul:
    """Make the kernel for one config."""
    run = load_library().plait_silu_and_mul

    def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
        tokens, features = x.shape[0], x.shape[1] // 2
        y = torch.empty(tokens, features, dtype=x.dtype)
        run(
            DTYPES[x.dtype],
            x.data_ptr(),
            x.stride(0),
            y.data_ptr(),
            tokens,
            features,
            torch.get_num_threads(),
        )
        return y

    return silu_and_mul
