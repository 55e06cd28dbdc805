"""``kv_write``: a program copies one token's key and value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from plait_triton.language import launch_options, let_next_start, wait_for_inputs
from plait_triton.sizes import ceil_div, power_of_two

if TYPE_CHECKING:
    import torch

    from plait_kernels.config import OpConfig

_BLOCK = 1024


@triton.jit(do_not_specialize_on_alignment=["slots"])
def kv_write_kernel(
    k,
    v,
    kv,
    slots,
    k_stride,
    v_stride,
    block_stride,
    COLUMNS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    slot = tl.load(slots + token)
    inside = (column < COLUMNS) & (slot >= 0)
    key = tl.load(k + token * k_stride + column, mask=inside)
    value = tl.load(v + token * v_stride + column, mask=inside)
    place = kv + slot // BLOCK_SIZE * block_stride + slot % BLOCK_SIZE * COLUMNS + column
    tl.store(place, key, mask=inside)
    tl.store(place + BLOCK_SIZE * COLUMNS, value, mask=inside)


class KVWrite:
    """See ``plait_kernels.ops.kv_write`` for the contract."""

    def __call__(
        self, k: torch.Tensor, v: torch.Tensor, kv: torch.Tensor, slot_mapping: torch.Tensor
    ) -> None:
        """Copy the tokens to their slots."""
        tokens, kv_heads, head_dim = k.shape
        if not tokens:
            return
        columns = kv_heads * head_dim
        block = min(_BLOCK, power_of_two(columns))
        kv_write_kernel[tokens, ceil_div(columns, block)](
            k,
            v,
            kv,
            slot_mapping,
            k.stride(0),
            v.stride(0),
            kv.stride(0),
            COLUMNS=columns,
            BLOCK_SIZE=kv.shape[2],
            BLOCK=block,
            **launch_options(k.device),
        )


def make(config: OpConfig) -> KVWrite:
    """Make the implementation; it takes any config."""
    return KVWrite()
