"""``kv_write`` by indexed assignment."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from plait_kernels.config import OpConfig
    from plait_kernels.ops.kv_write import KVWrite


def make(config: OpConfig) -> KVWrite:
    """Make the kernel for one config."""

    def kv_write(
        k: torch.Tensor, v: torch.Tensor, kv: torch.Tensor, slot_mapping: torch.Tensor
    ) -> None:
        if slot_mapping.shape[0] == 0:
            return
        # One reduction tells the usual batch, where every token has a place, from the others.
        if int(slot_mapping.min()) < 0:
            tokens = (slot_mapping >= 0).nonzero().squeeze(1)
            k, v, slot_mapping = k[tokens], v[tokens], slot_mapping[tokens]
        block_size = kv.shape[2]
        block = slot_mapping.div(block_size, rounding_mode="floor")
        place = slot_mapping.remainder(block_size)
        kv[:, 0].index_put_((block, place), k)
        kv[:, 1].index_put_((block, place), v)

    return kv_write
