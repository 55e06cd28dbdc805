"""``linear``: every way to divide a product, on sizes that divide unevenly."""

from __future__ import annotations

import itertools

import pytest
import torch

from plait_kernels.config import OpConfig
from plait_kernels.ops.linear import TOLERANCE, inputs
from plait_kernels.weights import DenseWeight
from plait_triton import linear, linear_matrix, linear_vector
from plait_triton.launching import LAUNCHER
from plait_triton.linear_choice import MAX_ROWS, MatrixBlocks, VectorBlocks, choose
from plait_triton.sizes import ceil_div

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF = ("bfloat16", "float16")
SHAPES = (
    (576, 576),
    (49152, 576),
    (6144, 4096),
    (4096, 4096),
    (28672, 4096),
    (4096, 14336),
    (128256, 4096),
)
"""(outputs, inputs) of linears of SmolLM2-135M and Llama-3.1-8B."""


def make_inputs(
    seed: int, tokens: int, in_features: int, out_features: int, dtype: str, bias: bool = True
) -> tuple[torch.Tensor, DenseWeight]:
    """Make random arguments; the rows of x are strided."""
    return inputs(
        seed,
        tokens=tokens,
        in_features=in_features,
        out_features=out_features,
        bias=bias,
        dtype=dtype,
        device=DEVICE,
        padding=8,
    )


def assert_is_product(y: torch.Tensor, x: torch.Tensor, weight: DenseWeight) -> None:
    """Compare with the product in float64."""
    expected = x.double() @ weight.weight.double().T
    if weight.bias is not None:
        expected += weight.bias.double()
    rtol, atol = TOLERANCE[str(x.dtype).removeprefix("torch.")]
    assert y.dtype == x.dtype
    assert y.is_contiguous()
    torch.testing.assert_close(y.double(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", ["float32", *HALF])
@pytest.mark.parametrize(
    ("in_features", "out_features", "blocks"),
    [
        pytest.param(128, 24, VectorBlocks(4, 32), id="even"),
        pytest.param(104, 23, VectorBlocks(4, 32, warps=2), id="uneven"),
        pytest.param(7, 5, VectorBlocks(8, 16), id="one_block"),
    ],
)
def test_one_row(in_features: int, out_features: int, blocks: VectorBlocks, dtype: str) -> None:
    x, weight = make_inputs(3, 1, in_features, out_features, dtype)
    y = linear_vector.multiply(x, weight, blocks, LAUNCHER)
    assert_is_product(y, x, weight)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("rows", "in_features", "out_features", "blocks"),
    [
        pytest.param(1, 128, 64, MatrixBlocks(16, 32, 32), id="one_row"),
        pytest.param(16, 128, 64, MatrixBlocks(16, 32, 32), id="even"),
        pytest.param(9, 104, 75, MatrixBlocks(16, 32, 32), id="uneven"),
        pytest.param(5, 256, 75, MatrixBlocks(8, 32, 32, splits=4), id="splits"),
        pytest.param(19, 104, 75, MatrixBlocks(32, 32, 32, splits=3), id="uneven_splits"),
        pytest.param(4, 40, 33, MatrixBlocks(16, 32, 32, splits=4), id="empty_splits"),
        pytest.param(33, 128, 75, MatrixBlocks(64, 32, 32, x_is_tall=True), id="tall"),
        pytest.param(
            70, 104, 75, MatrixBlocks(128, 32, 32, splits=2, x_is_tall=True), id="tall_splits"
        ),
    ],
)
def test_few_rows(
    rows: int, in_features: int, out_features: int, blocks: MatrixBlocks, dtype: str
) -> None:
    for bias in (True, False):
        x, weight = make_inputs(5, rows, in_features, out_features, dtype, bias)
        y = linear_matrix.multiply(x, weight, blocks, LAUNCHER)
        assert_is_product(y, x, weight)


@pytest.mark.parametrize("dtype", ["float32", *HALF])
@pytest.mark.parametrize("tokens", [0, 1, 2, 17, 40, MAX_ROWS, MAX_ROWS + 1])
@pytest.mark.parametrize("bucket", ["decode", "prefill"])
def test_every_number_of_tokens(bucket: str, tokens: int, dtype: str) -> None:
    config = OpConfig.of(
        "linear",
        dtype=dtype,
        bucket=bucket,
        max_tokens=256,
        in_features=48,
        out_features=40,
        format="dense",
        bias=True,
    )
    x, weight = make_inputs(7, tokens, 48, 40, dtype)
    kernel = linear.make(config)
    assert_is_product(kernel(x, kernel.prepare(weight)), x, weight)


def test_a_row_past_the_others_is_not_read() -> None:
    """Rows of x are padded to a block with zeros, not with what follows in memory."""
    memory, weight = make_inputs(11, 16, 64, 32, "bfloat16")
    memory[5:] = torch.nan
    x = memory[:5]
    y = linear_matrix.multiply(x, weight, MatrixBlocks(16, 32, 32), LAUNCHER)
    assert_is_product(y, x, weight)


@pytest.mark.parametrize("rows", [3, 40])
def test_a_weight_that_begins_anywhere(rows: int) -> None:
    """What brings weights to the cache ahead takes multiples of 16 bytes only."""
    x, weight = make_inputs(17, rows, 512, 64, "bfloat16")
    memory = torch.empty(weight.weight.numel() + 1, dtype=x.dtype, device=DEVICE)
    moved = DenseWeight(memory[1:].view_as(weight.weight).copy_(weight.weight), weight.bias)
    blocks = choose(rows, 64, 512, x.dtype, 99 * 1024)
    assert isinstance(blocks, MatrixBlocks)
    assert blocks.near
    for each in (weight, moved):
        y = linear_matrix.multiply(x, each, blocks, LAUNCHER)
        assert_is_product(y, x, weight)


def test_a_weight_that_is_not_contiguous() -> None:
    x, weight = make_inputs(13, 3, 64, 32, "bfloat16")
    transposed = DenseWeight(weight.weight.T.contiguous().T, weight.bias)
    config = OpConfig.of("linear", dtype="bfloat16", bucket="decode", max_tokens=4)
    assert_is_product(linear.make(config)(x, transposed), x, transposed)


@pytest.mark.parametrize("shared", [99 * 1024, 163 * 1024, 227 * 1024])
def test_choice_fits_shared_memory_and_rows(shared: int) -> None:
    for (out_features, in_features), rows in itertools.product(SHAPES, range(2, 2 * MAX_ROWS)):
        blocks = choose(rows, out_features, in_features, torch.bfloat16, shared)
        if rows > MAX_ROWS:
            assert blocks is None
        else:
            assert isinstance(blocks, MatrixBlocks)
            staged = 2 * blocks.block_in * (blocks.block_out + blocks.block_rows)
            assert rows <= blocks.block_rows
            assert blocks.stages * staged <= shared
            assert blocks.stages > 1
            # The tall operand has as many rows as the tensor cores of an H100 take.
            assert (blocks.block_rows if blocks.x_is_tall else blocks.block_out) >= 64


@pytest.mark.parametrize("rows", [2, 32, 64, 128])
def test_what_is_brought_near_is_of_the_row(rows: int) -> None:
    """Of every split, even where there are fewer inputs than the splits have blocks."""
    counts = set()
    for in_features in range(16, 4200, 8):
        blocks = choose(rows, 64, in_features, torch.bfloat16, 227 * 1024)
        assert isinstance(blocks, MatrixBlocks)
        counts.add(blocks.near)
        share = ceil_div(in_features, blocks.block_in * blocks.splits) * blocks.block_in
        assert blocks.near % 16 == 0
        assert not blocks.near or (blocks.splits - 1) * share + blocks.near // 2 <= in_features
    assert {0, 512} <= counts


def test_float32_is_multiplied_without_tensor_cores() -> None:
    shared = 227 * 1024
    assert isinstance(choose(1, 4096, 4096, torch.float32, shared), VectorBlocks)
    assert choose(2, 4096, 4096, torch.float32, shared) is None
