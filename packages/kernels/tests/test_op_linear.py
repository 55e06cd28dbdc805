from __future__ import annotations

import pytest
import torch

from plait_kernels.config import DTYPES, OpConfig
from plait_kernels.ops.linear import OP, inputs, reference
from plait_kernels.torch_backend.linear import FLOAT16_TOKENS, make


def config(dtype: str, bias: bool = True) -> OpConfig:
    return OpConfig.of(
        "linear",
        dtype=dtype,
        bucket="prefill",
        max_tokens=64,
        in_features=40,
        out_features=24,
        format="dense",
        bias=bias,
    )


@pytest.mark.parametrize("bias", [False, True])
def test_reference_is_the_matrix_product(bias: bool) -> None:
    x, weight = inputs(1, bias=bias)
    expected = x.double() @ weight.weight.double().T
    if weight.bias is not None:
        expected = expected + weight.bias.double()
    kernel = reference(config("float32", bias))
    torch.testing.assert_close(kernel(x, kernel.prepare(weight)), expected.float())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, FLOAT16_TOKENS, FLOAT16_TOKENS + 1, 33, 300])
@pytest.mark.parametrize(("bias", "padding"), [(False, 0), (True, 0), (True, 7)])
def test_torch_agrees_with_reference(dtype: str, tokens: int, bias: bool, padding: int) -> None:
    x, weight = inputs(2, tokens=tokens, dtype=dtype, bias=bias, padding=padding)
    before = x.clone()
    kernel = make(config(dtype, bias))
    got = kernel(x, kernel.prepare(weight))
    rtol, atol = OP.tolerance[dtype]
    expected = reference(config(dtype, bias))(x, weight)
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prepared_weight_outlives_the_dense_one(dtype: str) -> None:
    x, weight = inputs(3, dtype=dtype, bias=True)
    expected = reference(config(dtype))(x, weight)
    kernel = make(config(dtype))
    prepared = kernel.prepare(weight)
    if prepared is not weight:
        weight.weight.fill_(torch.nan)
    rtol, atol = OP.tolerance[dtype]
    torch.testing.assert_close(kernel(x, prepared), expected, rtol=rtol, atol=atol)


def test_kernels_of_one_layout_share_prepared_weights() -> None:
    x, weight = inputs(4)
    decode, prefill = make(config("float32")), make(config("float32"))
    assert decode.layout == prefill.layout
    prepared = decode.prepare(weight)
    assert torch.equal(decode(x, prepared), prefill(x, prepared))
