"""The op ``rotary_embedding``: rotary position embedding (Su et al., 2021), halves not interleaved.

Static parameters: ``head_dim``, and ``rotary_dim``, the leading part of a head that is rotated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from plait_kernels.ops.contract import Accuracy, Op
from plait_kernels.ops.random_inputs import generator, integers, normal

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig

TOLERANCE = {"float32": (1e-5, 1e-5), "bfloat16": (1.6e-2, 1e-2), "float16": (2e-3, 2e-3)}


class RotaryEmbedding(Protocol):
    """What a kernel for ``rotary_embedding`` is."""

    def __call__(
        self, positions: torch.Tensor, q: torch.Tensor, k: torch.Tensor, cos_sin: torch.Tensor
    ) -> None:
        """Rotate the heads of q and k in place.

        With h = rotary_dim / 2, elements i and i + h of a head (i < h) are turned by the angle of
        the token's position; elements from rotary_dim on are left alone.

        Parameters
        ----------
        positions : Tensor, int64 [tokens]
            Row of ``cos_sin`` of each token.
        q : Tensor [tokens, heads, head_dim]
            Changed in place. May be strided in the token dimension (columns of a packed qkv).
        k : Tensor [tokens, kv_heads, head_dim]
            Changed in place, likewise.
        cos_sin : Tensor, float32 [max_position, rotary_dim]
            Cosines of the h angles of a position, then their sines.
        """
        ...


def reference(config: OpConfig) -> RotaryEmbedding:
    """Make the reference: one token after another, in float64, rounded once."""

    def rotate(head: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> None:
        half = cos.shape[-1]
        first, second = head[:, :half].double(), head[:, half : 2 * half].double()
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        head[:, : 2 * half] = turned.to(head.dtype)

    def rotary_embedding(
        positions: torch.Tensor, q: torch.Tensor, k: torch.Tensor, cos_sin: torch.Tensor
    ) -> None:
        for token, position in enumerate(positions.tolist()):
            cos, sin = cos_sin[position].chunk(2)
            rotate(q[token], cos, sin)
            rotate(k[token], cos, sin)

    return rotary_embedding


def inputs(
    seed: int,
    *,
    tokens: int = 7,
    heads: int = 6,
    kv_heads: int = 2,
    head_dim: int = 16,
    rotary_dim: int = 16,
    max_position: int = 50,
    dtype: str = "float32",
    device: str = "cpu",
    packed: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make random arguments ``(positions, q, k, cos_sin)``.

    The first token is at the last position, the second at the first; the others are anywhere.
    ``packed`` makes q and k columns of one matrix whose last columns (v) hold NaN.
    """
    source = generator(seed)
    positions = integers(source, 0, max_position - 1, tokens, device=device)
    positions[:1], positions[1:2] = max_position - 1, 0
    angles = torch.rand(max_position, rotary_dim // 2, generator=source) * 2 * torch.pi
    cos_sin = torch.cat([angles.cos(), angles.sin()], dim=-1).to(device)
    columns = (heads + kv_heads) * head_dim
    padding = kv_heads * head_dim if packed else 0
    qk = normal(source, tokens, columns, dtype=dtype, device=device, padding=padding)
    heads_of_qk = qk.view(tokens, heads + kv_heads, head_dim)
    q, k = heads_of_qk[:, :heads], heads_of_qk[:, heads:]
    if not packed:
        q, k = q.clone(), k.clone()
    return positions, q, k, cos_sin


OP = Op("rotary_embedding", reference, inputs, TOLERANCE, Accuracy())
