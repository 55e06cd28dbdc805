from __future__ import annotations

import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from plait_kernels.config import OpConfig
from plait_kernels.ops.rms_norm import inputs, reference


def config(dtype: str) -> OpConfig:
    return OpConfig.of("rms_norm", dtype=dtype, bucket="prefill", max_tokens=64, hidden=48)


def test_reference_agrees_with_transformers() -> None:
    x, weight, eps = inputs(1)
    norm = LlamaRMSNorm(48, eps)
    norm.weight.data.copy_(weight)
    torch.testing.assert_close(reference(config("float32"))(x, weight, eps), norm(x).detach())
