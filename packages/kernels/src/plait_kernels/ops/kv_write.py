"""The op ``kv_write``: put the keys and values of a step's tokens into one layer of the KV cache.

Static parameters: ``kv_heads``, ``head_dim``, ``block_size`` (tokens in a block).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from plait_kernels.config import DTYPES
from plait_kernels.ops.contract import Op
from plait_kernels.ops.random_inputs import generator, normal

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig

TOLERANCE = dict.fromkeys(DTYPES, (0.0, 0.0))


class KVWrite(Protocol):
    """What a kernel for ``kv_write`` is."""

    def __call__(
        self, k: torch.Tensor, v: torch.Tensor, kv: torch.Tensor, slot_mapping: torch.Tensor
    ) -> None:
        """Copy each token's key and value to its place.

        Parameters
        ----------
        k, v : Tensor [tokens, kv_heads, head_dim]
            May be strided in the token dimension (columns of a packed qkv). Not changed.
        kv : Tensor [num_blocks, 2, block_size, kv_heads, head_dim]
            Keys at index 0 of the second dimension, values at index 1. Changed in place, at the
            places named only. Its first dimension may be strided (one layer of the whole cache).
        slot_mapping : Tensor, int64 [tokens]
            ``block · block_size + place in the block``, or -1 = write nothing. Slots other than
            -1 are distinct.
        """
        ...


def reference(config: OpConfig) -> KVWrite:
    """Make the reference: one token after another."""

    def kv_write(
        k: torch.Tensor, v: torch.Tensor, kv: torch.Tensor, slot_mapping: torch.Tensor
    ) -> None:
        block_size = kv.shape[2]
        for token, slot in enumerate(slot_mapping.tolist()):
            if slot == -1:
                continue
            kv[slot // block_size, 0, slot % block_size] = k[token]
            kv[slot // block_size, 1, slot % block_size] = v[token]

    return kv_write


def inputs(
    seed: int,
    *,
    tokens: int = 7,
    kv_heads: int = 2,
    head_dim: int = 16,
    block_size: int = 4,
    num_blocks: int = 9,
    layers: int = 3,
    skipped: int = 2,
    dtype: str = "float32",
    device: str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make random arguments ``(k, v, kv, slot_mapping)``.

    k and v are columns of a packed qkv, kv the middle one of ``layers`` layers; ``skipped`` of
    the tokens have slot -1.
    """
    source = generator(seed)
    columns = kv_heads * head_dim
    packed = normal(source, tokens, 4 * columns, dtype=dtype, device=device)
    k, v = packed.view(tokens, 4 * kv_heads, head_dim)[:, 2 * kv_heads :].chunk(2, dim=1)
    shape = (num_blocks, layers, 2, block_size, kv_heads, head_dim)
    cache = normal(source, *shape, dtype=dtype, device=device)
    slots = torch.randperm(num_blocks * block_size, generator=source)[:tokens]
    slots[torch.randperm(tokens, generator=source)[:skipped]] = -1
    return k, v, cache[:, layers // 2], slots.to(device)


OP = Op("kv_write", reference, inputs, TOLERANCE)
