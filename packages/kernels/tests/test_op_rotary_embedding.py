from __future__ import annotations

import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from plait_kernels.config import OpConfig
from plait_kernels.ops.rotary_embedding import inputs, reference
from plait_kernels.torch_backend.rotary_embedding import make


def config(dtype: str, rotary_dim: int = 16) -> OpConfig:
    return OpConfig.of(
        "rotary_embedding",
        dtype=dtype,
        bucket="prefill",
        max_tokens=64,
        head_dim=16,
        rotary_dim=rotary_dim,
    )


def test_reference_agrees_with_transformers() -> None:
    positions, q, k, cos_sin = inputs(1, tokens=11)
    cos, sin = cos_sin[positions].chunk(2, dim=-1)
    expected = apply_rotary_pos_emb(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        torch.cat([cos, cos], dim=-1)[None],
        torch.cat([sin, sin], dim=-1)[None],
    )
    reference(config("float32"))(positions, q, k, cos_sin)
    for got, wanted in zip((q, k), expected, strict=True):
        torch.testing.assert_close(got, wanted[0].transpose(0, 1))


def test_torch_writes_only_what_it_rotates() -> None:
    positions, q, k, cos_sin = inputs(3, tokens=5, rotary_dim=8)
    packed = q.as_strided((5, 160), (160, 1))
    before = packed.clone()
    make(config("float32", 8))(positions, q, k, cos_sin)
    heads, heads_before = packed[:, :128].view(5, 8, 16), before[:, :128].view(5, 8, 16)
    assert packed[:, 128:].isnan().all()
    assert torch.equal(heads[..., 8:], heads_before[..., 8:])
    assert not torch.equal(heads[..., :8], heads_before[..., :8])


def test_torch_takes_q_and_k_that_are_only_nearly_side_by_side() -> None:
    positions, q, k, cos_sin = inputs(4, tokens=6)
    # A column of space between q and k: same strides and storage, not one matrix.
    wide = torch.zeros(6, 6 * 16 + 1 + 2 * 16)
    q_view, k_view = wide[:, :96].view(6, 6, 16), wide[:, 97:].view(6, 2, 16)
    q_view.copy_(q)
    k_view.copy_(k)
    make(config("float32"))(positions, q_view, k_view, cos_sin)
    reference(config("float32"))(positions, q, k, cos_sin)
    torch.testing.assert_close(q_view, q)
    torch.testing.assert_close(k_view, k)
    assert wide[:, 96].count_nonzero() == 0
