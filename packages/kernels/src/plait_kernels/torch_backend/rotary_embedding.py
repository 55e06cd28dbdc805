"""``rotary_embedding`` in a few passes; q and k that lie side by side are rotated as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.ops.rotary_embedding import RotaryEmbedding


def make(config: OpConfig) -> RotaryEmbedding:
    """Make the kernel for one config."""

    def rotary_embedding(
        positions: torch.Tensor, q: torch.Tensor, k: torch.Tensor, cos_sin: torch.Tensor
    ) -> None:
        # [tokens, 1, rotary_dim / 2] each
        cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
        if _adjacent(q, k):
            tokens, heads, head_dim = q.shape
            shape = (tokens, heads + k.shape[1], head_dim)
            _rotate(q.as_strided(shape, q.stride()), cos, sin)
        else:
            _rotate(q, cos, sin)
            _rotate(k, cos, sin)

    return rotary_embedding


def _adjacent(q: torch.Tensor, k: torch.Tensor) -> bool:
    return (
        q.stride() == k.stride()
        and q.dtype == k.dtype
        and q.storage_offset() + q.shape[1] * q.stride(1) == k.storage_offset()
        and q.untyped_storage().data_ptr() == k.untyped_storage().data_ptr()
    )


def _rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
    half = cos.shape[-1]
    first, second = heads[..., :half], heads[..., half : 2 * half]
    if heads.dtype == torch.float32:
        turned = first * sin
        first.mul_(cos).addcmul_(second, sin, value=-1)
        second.mul_(cos).add_(turned)
    else:
        # Products with cos and sin are float32, so the assignment is the only rounding.
        new_first = torch.addcmul(first * cos, second, sin, value=-1)
        new_second = torch.addcmul(second * cos, first, sin)
        first.copy_(new_first)
        second.copy_(new_second)
