from __future__ import annotations

import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from plait_kernels.config import OpConfig
from plait_kernels.ops.fused_add_rms_norm import inputs, reference


def config(dtype: str) -> OpConfig:
    return OpConfig.of(
        "fused_add_rms_norm", dtype=dtype, bucket="prefill", max_tokens=64, hidden=48
    )


def test_reference_agrees_with_transformers() -> None:
    x, residual, weight, eps = inputs(1)
    norm = LlamaRMSNorm(48, eps)
    norm.weight.data.copy_(weight)
    expected = norm(x + residual).detach()
    torch.testing.assert_close(reference(config("float32"))(x, residual, weight, eps), expected)
