"""``rotary_embedding``: a program turns a few heads of one token, of q or of k."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from plait_triton.language import launch_options, let_next_start, wait_for_inputs
from plait_triton.sizes import ceil_div, power_of_two

if TYPE_CHECKING:
    import torch

    from plait_kernels.config import OpConfig

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
        rotary_embedding_kernel[tokens, blocks](
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
            **launch_options(q.device),
        )


def make(config: OpConfig) -> RotaryEmbedding:
    """Make the implementation; it takes any config."""
    return RotaryEmbedding()
