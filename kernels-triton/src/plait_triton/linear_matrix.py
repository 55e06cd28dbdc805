"""``linear`` of a few rows, on tensor cores.

Their tall operand has 64 rows: it is the weight where x has fewer (yᵀ = W · xᵀ), and x where it has
as many (``x_is_tall``), as tiles may then have fewer outputs.

The weight passes through shared memory once, several blocks ahead of the products. While the
kernels before this one still run, a program has its first weights brought near: they use little of
the memory's bandwidth, and nothing writes weights between steps. The inputs may be divided among
programs (``splits``); a second launch then adds the parts in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from plait_triton.language import bring_near, dot, let_next_start, wait_for_inputs
from plait_triton.sizes import ceil_div

if TYPE_CHECKING:
    from plait_kernels.weights import DenseWeight
    from plait_triton.launching import Launcher
    from plait_triton.linear_choice import MatrixBlocks

_SUM_BLOCK = 1024


@triton.jit
def _product(
    x,
    weight,
    tile,
    first,
    rows,
    x_stride,
    out_features,
    IN_FEATURES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCKS: tl.constexpr,
    STAGES: tl.constexpr,
    IS_EVEN: tl.constexpr,
    X_IS_TALL: tl.constexpr,
    NEAR: tl.constexpr,
    PDL: tl.constexpr,
):
    """Return one tile of the product over ``BLOCKS`` blocks of inputs, float32.

    It is [BLOCK_ROWS, BLOCK_OUT] where x is tall, else [BLOCK_OUT, BLOCK_ROWS].
    """
    feature = tile * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    # Rows past the end repeat the last one: loads without a mask are wider.
    row = tl.minimum(feature, out_features - 1).to(tl.int64)
    if NEAR > 0:
        bring_near(weight + row * IN_FEATURES + first * BLOCK_IN, NEAR, PDL)
    # In this order, as in ``add_parts_kernel``: see ``lora``'s shrink, which follows.
    wait_for_inputs(PDL)
    let_next_start(PDL)
    token = tl.arange(0, BLOCK_ROWS)
    is_token = (token < rows)[:, None]
    if X_IS_TALL:
        acc = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
    else:
        acc = tl.zeros((BLOCK_OUT, BLOCK_ROWS), tl.float32)
    for block in tl.range(BLOCKS, num_stages=STAGES):
        start = (first + block) * BLOCK_IN
        column = start + tl.arange(0, BLOCK_IN)
        x_at = x + token.to(tl.int64)[:, None] * x_stride + column[None, :]
        at = weight + row[:, None] * IN_FEATURES + column[None, :]
        if IS_EVEN:
            values = tl.load(x_at, mask=is_token, other=0.0)
        else:
            values = tl.load(x_at, mask=is_token & (column < IN_FEATURES)[None, :], other=0.0)
        if IS_EVEN:
            weights = tl.load(at, eviction_policy="evict_first")
        else:
            inside = (column < IN_FEATURES)[None, :]
            weights = tl.load(at, mask=inside, other=0.0, eviction_policy="evict_first")
        if X_IS_TALL:
            acc = dot(values, tl.trans(weights), acc)
        else:
            acc = dot(weights, tl.trans(values), acc)
    return acc


@triton.jit
def _store(acc, bias, y, tile, split, rows, out_features):
    """Write a tile [outputs, rows] to ``y`` [rows, out_features], or to a split's part of it."""
    feature = tile * acc.shape[0] + tl.arange(0, acc.shape[0])
    token = tl.arange(0, acc.shape[1])
    inside = feature < out_features
    if bias is not None:
        acc += tl.load(bias + feature, mask=inside, other=0.0).to(tl.float32)[:, None]
    line = (split * rows + token).to(tl.int64)
    at = y + line[None, :] * out_features + feature[:, None]
    tl.store(at, acc.to(y.dtype.element_ty), mask=inside[:, None] & (token < rows)[None, :])


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["bias"])
def linear_matrix_kernel(
    x,
    weight,
    bias,
    y,
    rows,
    x_stride,
    out_features,
    IN_FEATURES: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    STAGES: tl.constexpr,
    SPLITS: tl.constexpr,
    X_IS_TALL: tl.constexpr,
    NEAR: tl.constexpr,
    PDL: tl.constexpr,
):
    # The same number of blocks for every split: past the end there is nothing but zeros.
    SHARE: tl.constexpr = BLOCK_IN * SPLITS
    BLOCKS: tl.constexpr = (IN_FEATURES + SHARE - 1) // SHARE
    IS_EVEN: tl.constexpr = IN_FEATURES % SHARE == 0
    tile = tl.program_id(0)
    split = tl.program_id(1)
    acc = _product(
        x, weight, tile, split * BLOCKS, rows, x_stride, out_features,
        IN_FEATURES, BLOCK_ROWS, BLOCK_OUT, BLOCK_IN, BLOCKS, STAGES, IS_EVEN, X_IS_TALL, NEAR,
        PDL,
    )  # fmt: skip
    if X_IS_TALL:
        acc = tl.trans(acc)
    _store(acc, bias, y, tile, split, rows, out_features)


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["bias"])
def add_parts_kernel(
    parts, bias, y, rows, features, SPLITS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
):
    # A multiple of what ``features`` is a multiple of, as the compiler sees.
    size = rows * features
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    wait_for_inputs(PDL)
    let_next_start(PDL)
    total = tl.load(parts + at, mask=inside, other=0.0)
    for split in tl.static_range(1, SPLITS):
        total += tl.load(parts + split * size + at, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + at % features, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, total.to(y.dtype.element_ty), mask=inside)


def multiply(
    x: torch.Tensor, weight: DenseWeight, blocks: MatrixBlocks, launcher: Launcher
) -> torch.Tensor:
    """Return ``x · weightᵀ + bias``, [rows, out_features]; at most ``blocks.block_rows`` rows."""
    rows = x.shape[0]
    matrix, bias = weight.weight, weight.bias
    out_features, in_features = matrix.shape
    y = torch.empty((rows, out_features), dtype=x.dtype, device=x.device)
    splits = blocks.splits
    target = y
    if splits > 1:
        target = torch.empty((splits, rows, out_features), dtype=torch.float32, device=x.device)
    options = launcher.options(x.device)
    launcher.run(
        linear_matrix_kernel,
        (ceil_div(out_features, blocks.block_out), splits),
        x,
        matrix,
        bias if splits == 1 else None,
        target,
        rows,
        x.stride(0),
        out_features,
        IN_FEATURES=in_features,
        BLOCK_ROWS=blocks.block_rows,
        BLOCK_OUT=blocks.block_out,
        BLOCK_IN=blocks.block_in,
        STAGES=blocks.stages,
        SPLITS=splits,
        X_IS_TALL=blocks.x_is_tall,
        NEAR=blocks.near if matrix.data_ptr() % 16 == 0 else 0,
        num_warps=blocks.warps,
        **options,
    )
    if splits > 1:
        size = rows * out_features
        launcher.run(
            add_parts_kernel, (ceil_div(size, _SUM_BLOCK),), target, bias, y, rows, out_features,
            SPLITS=splits, BLOCK=_SUM_BLOCK, **options,
        )  # fmt: skip
    return y
