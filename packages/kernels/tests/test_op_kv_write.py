from __future__ import annotations

import pytest
import torch

from plait_kernels.config import OpConfig
from plait_kernels.ops.kv_write import KVWrite, inputs, reference
from plait_kernels.torch_backend.kv_write import make


def config(dtype: str) -> OpConfig:
    return OpConfig.of(
        "kv_write",
        dtype=dtype,
        bucket="prefill",
        max_tokens=64,
        kv_heads=2,
        head_dim=16,
        block_size=4,
    )


def whole_cache(kv: torch.Tensor, layers: int = 3) -> torch.Tensor:
    """Return the cache of which kv is the middle layer: [num_blocks, layers, *kv.shape[1:]]."""
    shape = (kv.shape[0], layers, *kv.shape[1:])
    return kv.as_strided(shape, (kv.stride(0), kv[0].numel(), *kv.stride()[1:]), 0)


@pytest.mark.parametrize("factory", [reference, make])
def test_tokens_land_in_their_slots_and_nowhere_else(factory: object) -> None:
    assert callable(factory)
    kernel: KVWrite = factory(config("float32"))
    k, v, kv, _ = inputs(1, tokens=4, skipped=0)
    cache = whole_cache(kv)
    expected = cache.clone()
    # Slots 6 and 35 are place 2 of block 1 and place 3 of block 8.
    for token, block, place in ((0, 1, 2), (2, 8, 3), (3, 0, 0)):
        expected[block, 1, 0, place] = k[token]
        expected[block, 1, 1, place] = v[token]
    kernel(k, v, kv, torch.tensor([6, -1, 35, 0]))
    assert torch.equal(cache, expected)
