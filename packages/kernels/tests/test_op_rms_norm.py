from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from plait_kernels.config import DTYPES, OpConfig
from plait_kernels.ops.rms_norm import OP, inputs, reference
from plait_kernels.torch_backend.rms_norm import make


def config(dtype: str) -> OpConfig:
    return OpConfig.of("rms_norm", dtype=dtype, bucket="prefill", max_tokens=64, hidden=48)


def test_reference_agrees_with_transformers() -> None:
    x, weight, eps = inputs(1)
    norm = LlamaRMSNorm(48, eps)
    norm.weight.data.copy_(weight)
    torch.testing.assert_close(reference(config("float32"))(x, weight, eps), norm(x).detach())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 7, 33])
@pytest.mark.parametrize("padding", [0, 5])
def test_torch_agrees_with_reference(dtype: str, tokens: int, padding: int) -> None:
    x, weight, eps = inputs(2, tokens=tokens, dtype=dtype, padding=padding)
    before = x.clone()
    got = make(config(dtype))(x, weight, eps)
    rtol, atol = OP.tolerance[dtype]
    expected = reference(config(dtype))(x, weight, eps)
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    assert torch.equal(x, before)
