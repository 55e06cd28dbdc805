from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from plait_kernels.config import DTYPES, OpConfig
from plait_kernels.ops.fused_add_rms_norm import OP, inputs, reference
from plait_kernels.torch_backend.fused_add_rms_norm import make


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 7, 33])
@pytest.mark.parametrize("padding", [0, 5])
def test_torch_agrees_with_reference(dtype: str, tokens: int, padding: int) -> None:
    x, residual, weight, eps = inputs(2, tokens=tokens, dtype=dtype, padding=padding)
    _, expected_residual, _, _ = inputs(2, tokens=tokens, dtype=dtype, padding=padding)
    before = x.clone()
    got = make(config(dtype))(x, residual, weight, eps)
    expected = reference(config(dtype))(x, expected_residual, weight, eps)
    rtol, atol = OP.tolerance[dtype]
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    assert torch.equal(residual, expected_residual)
    assert torch.equal(x, before)
    if padding and tokens > 1:
        columns = residual.as_strided((tokens - 1, padding), (48 + padding, 1), 48)
        assert columns.isnan().all(), "wrote between the rows"
