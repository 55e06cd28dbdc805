from __future__ import annotations

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from plait_kernels.config import OpConfig
from plait_kernels.ops.silu_and_mul import inputs, reference


def config(dtype: str) -> OpConfig:
    return OpConfig.of("silu_and_mul", dtype=dtype, bucket="prefill", max_tokens=64, features=40)


def test_reference_agrees_with_transformers() -> None:
    mlp = LlamaMLP(LlamaConfig(hidden_size=80, intermediate_size=40, num_attention_heads=5))
    (x,) = inputs(1)
    for projection, columns in ((mlp.gate_proj, slice(0, 40)), (mlp.up_proj, slice(40, 80))):
        projection.weight.data.copy_(torch.eye(80)[columns])
    mlp.down_proj.weight.data.copy_(torch.eye(80)[:, :40])
    torch.testing.assert_close(reference(config("float32"))(x), mlp(x).detach()[:, :40])
