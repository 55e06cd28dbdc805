"""``kv_write``: a program copies one token's key and value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from plait_triton.language import let_next_start, wait_for_inputs
from plait_triton.launching import (
    LAUNCHER,
    Launcher,
    Recorder,
    caches_without_memory,
    without_memory,
)
from plait_triton.sizes import ceil_div, power_of_two

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plait_kernels.config import OpConfig
    from plait_kernels.warm_up import EngineFacts
    from plait_triton.variants import Variant

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
    # One comparison: Triton 3.9's interpreter makes numbers of a truth that is combined with many.
    inside = column < tl.where(slot >= 0, COLUMNS, 0)
    key = tl.load(k + token * k_stride + column, mask=inside)
    value = tl.load(v + token * v_stride + column, mask=inside)
    place = kv + slot // BLOCK_SIZE * block_stride + slot % BLOCK_SIZE * COLUMNS + column
    tl.store(place, key, mask=inside)
    tl.store(place + BLOCK_SIZE * COLUMNS, value, mask=inside)


class KVWrite:
    """See ``plait_kernels.ops.kv_write`` for the contract."""

    def __init__(self, config: OpConfig, launcher: Launcher = LAUNCHER) -> None:
        self._config = config
        self._launcher = launcher

    def __call__(
        self, k: torch.Tensor, v: torch.Tensor, kv: torch.Tensor, slot_mapping: torch.Tensor
    ) -> None:
        """Copy the tokens to their slots."""
        tokens, kv_heads, head_dim = k.shape
        if not tokens:
            return
        columns = kv_heads * head_dim
        block = min(_BLOCK, power_of_two(columns))
        self._launcher.run(
            kv_write_kernel,
            (tokens, ceil_div(columns, block)),
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
            **self._launcher.options(k.device),
        )

    def warm_up(self, facts: EngineFacts) -> Iterable[Variant]:
        """List the variants of the kernel; see ``plait_kernels.warm_up``."""
        recorder, dtype = Recorder(facts.device), getattr(torch, self._config.dtype)
        names = ("kv_heads", "head_dim", "block_size")
        kv_heads, head_dim, block_size = (int(self._config.get(name) or 0) for name in names)
        heads = facts.heads
        packed = without_memory(1, heads + 2 * kv_heads, head_dim, dtype=dtype)
        k, v = packed[:, heads : heads + kv_heads], packed[:, heads + kv_heads :]
        slots = without_memory(1, dtype=torch.int64)
        for kv in caches_without_memory(block_size, kv_heads, head_dim, dtype):
            KVWrite(self._config, recorder)(k, v, kv, slots)
        return recorder.variants


def make(config: OpConfig) -> KVWrite:
    """Make the implementation; it takes any config."""
    return KVWrite(config)
