"""``rotary_embedding`` in one pass over q and k."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from plait_cpu.library import DTYPES, load_library

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.ops.rotary_embedding import RotaryEmbedding


def make(config: OpConfig) -> RotaryEmbedding:
    """Make the kernel for one config."""
    run = load_library().plait_rotary

    def rotary_embedding(
        positions: torch.Tensor, q: torch.Tensor, k: torch.Tensor, cos_sin: torch.Tensor
    ) -> None:
        run(
            DTYPES[q.dtype],
            positions.data_ptr(),
            q.data_ptr(),
            q.stride(0),
            q.stride(1),
            q.shape[1],
            k.data_ptr(),
            k.stride(0),
            k.stride(1),
            k.shape[1],
            cos_sin.data_ptr(),
            q.shape[0],
            cos_sin.shape[1],
            torch.get_num_threads(),
        )

    return rotary_embedding
