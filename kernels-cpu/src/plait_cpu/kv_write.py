"""``kv_write``: a copy of each token's keys and values to its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from plait_cpu.library import load_library

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.ops.kv_write import KVWrite


def make(config: OpConfig) -> KVWrite:
    """Make the kernel for one config."""
    run = load_library().plait_kv_write

    def kv_write(
        k: torch.Tensor, v: torch.Tensor, kv: torch.Tensor, slot_mapping: torch.Tensor
    ) -> None:
        size = kv.element_size()
        run(
            k.data_ptr(),
            k.stride(0) * size,
            v.data_ptr(),
            v.stride(0) * size,
            kv.data_ptr(),
            kv.stride(0) * size,
            slot_mapping.data_ptr(),
            k.shape[0],
            kv.shape[2],
            kv.stride(2) * size,
            torch.get_num_threads(),
        )

    return kv_write
