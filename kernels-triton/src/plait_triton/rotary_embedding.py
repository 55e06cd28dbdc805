"""``rotary_embedding``: a program turns a few heads of one token, of q or of k."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from plait_triton.language import let_next_start, wait_for_inputs
from plait_triton.launching import LAUNCHER, Launcher, Recorder, without_memory
from plait_triton.sizes import ceil_div, power_of_two

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plait_kernels.config import OpConfig
    from plait_kernels.warm_up import EngineFacts
    from plait_triton.variants import Variant

_ELEMENTS = 512
"""Of one half of the heads of a program: with two warps every thread moves 16 bytes of each."""


@triton.jit
def rotate_heads(x, heads, cos, sin, HEAD_DIM: tl.constexpr, HALF: tl.constexpr, inside):
    """Turn heads of one token in place and return their halves; ``x`` points at its elements."""
    at = x + heads * HEAD_DIM
    first = tl.load(at, mask=inside).to(tl.float32)
    second = tl.load(at + HALF, mask=inside).to(tl.float32)
    turned = (first * cos - second * sin).to(x.dtype.element_ty)
    turned_second = (second * cos + first * sin).to(x.dtype.element_ty)
    tl.store(at, turned, mask=inside)
    tl.store(at + HALF, turned_second, mask=inside)
    return turned, turned_second


@triton.jit(do_not_specialize_on_alignment=["positions"])
def rotary_embedding_kernel(
    positions,
    q,
    k,
    cos_sin,
    q_stride,
    k_stride,
    table_stride,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    Q_BLOCKS: tl.constexpr = (HEADS + HEAD_BLOCK - 1) // HEAD_BLOCK
    element = tl.arange(0, HALF_BLOCK)[None, :]
    wait_for_inputs(PDL)
    let_next_start(PDL)
    angle = cos_sin + tl.load(positions + token) * table_stride + element
    cos = tl.load(angle, mask=element < HALF)
    sin = tl.load(angle + HALF, mask=element < HALF)
    head = tl.arange(0, HEAD_BLOCK)[:, None]
    if block < Q_BLOCKS:
        head += block * HEAD_BLOCK
        inside = (head < HEADS) & (element < HALF)
        rotate_heads(q + token * q_stride + element, head, cos, sin, HEAD_DIM, HALF, inside)
    else:
        head += (block - Q_BLOCKS) * HEAD_BLOCK
        inside = (head < KV_HEADS) & (element < HALF)
        rotate_heads(k + token * k_stride + element, head, cos, sin, HEAD_DIM, HALF, inside)


class RotaryEmbedding:
    """See ``plait_kernels.ops.rotary_embedding`` for the contract."""

    def __init__(self, config: OpConfig, launcher: Launcher = LAUNCHER) -> None:
        self._config = config
        self._launcher = launcher

    def __call__(
        self, positions: torch.Tensor, q: torch.Tensor, k: torch.Tensor, cos_sin: torch.Tensor
    ) -> None:
        """Rotate in place, in one launch."""
        tokens, heads, head_dim = q.shape
        if not tokens:
            return
        kv_heads, half = k.shape[1], cos_sin.shape[1] // 2
        half_block = power_of_two(half)
        most_heads = power_of_two(max(heads, kv_heads))
        head_block = min(max(1, _ELEMENTS // half_block), most_heads)
        blocks = ceil_div(heads, head_block) + ceil_div(kv_heads, head_block)
        self._launcher.run(
            rotary_embedding_kernel,
            (tokens, blocks),
            positions,
            q,
            k,
            cos_sin,
            q.stride(0),
            k.stride(0),
            cos_sin.stride(0),
            HEADS=heads,
            KV_HEADS=kv_heads,
            HEAD_DIM=head_dim,
            HALF=half,
            HALF_BLOCK=half_block,
            HEAD_BLOCK=head_block,
            num_warps=2,
            **self._launcher.options(q.device),
        )

    def warm_up(self, facts: EngineFacts) -> Iterable[Variant]:
        """List the variants of the kernel; see ``plait_kernels.warm_up``."""
        recorder, dtype = Recorder(facts.device), getattr(torch, self._config.dtype)
        head_dim, rotary_dim = (int(self._config.get(n) or 0) for n in ("head_dim", "rotary_dim"))
        # As a model has them: side by side, with v.
        heads, kv_heads = facts.heads, facts.kv_heads
        packed = without_memory(1, heads + 2 * kv_heads, head_dim, dtype=dtype)
        RotaryEmbedding(self._config, recorder)(
            without_memory(1, dtype=torch.int64),
            packed[:, :heads],
            packed[:, heads : heads + kv_heads],
            without_memory(1, rotary_dim, dtype=torch.float32),
        )
        return recorder.variants


def make(config: OpConfig) -> RotaryEmbedding:
    """Make the implementation; it takes any config."""
    return RotaryEmbedding(config)
