"""``linear`` of one row: a matrix-vector product without tensor cores.

A program computes a few outputs. Its first block of weights is on the way before the kernel waits
for x, and from then on the next block is loaded while one is multiplied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from plait_triton.language import let_next_start, wait_for_inputs
from plait_triton.sizes import ceil_div

if TYPE_CHECKING:
    from plait_kernels.weights import DenseWeight
    from plait_triton.launching import Launcher
    from plait_triton.linear_choice import VectorBlocks


@triton.jit
def _weights(weight, row, column, IN_FEATURES: tl.constexpr, IS_EVEN: tl.constexpr):
    at = weight + row[:, None] * IN_FEATURES + column[None, :]
    if IS_EVEN:
        return tl.load(at, eviction_policy="evict_first")
    inside = (column < IN_FEATURES)[None, :]
    return tl.load(at, mask=inside, other=0.0, eviction_policy="evict_first")


@triton.jit
def _products(block, x, column, IN_FEATURES: tl.constexpr, IS_EVEN: tl.constexpr):
    if IS_EVEN:
        values = tl.load(x + column)
    else:
        values = tl.load(x + column, mask=column < IN_FEATURES, other=0.0)
    return block.to(tl.float32) * values.to(tl.float32)[None, :]


@triton.jit(do_not_specialize_on_alignment=["bias"])
def linear_vector_kernel(
    x,
    weight,
    bias,
    y,
    out_features,
    IN_FEATURES: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    PDL: tl.constexpr,
):
    IS_EVEN: tl.constexpr = IN_FEATURES % BLOCK_IN == 0
    BLOCKS: tl.constexpr = (IN_FEATURES + BLOCK_IN - 1) // BLOCK_IN
    feature = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    # Rows past the end repeat the last one: loads without a mask are wider.
    row = tl.minimum(feature, out_features - 1).to(tl.int64)
    lane = tl.arange(0, BLOCK_IN)
    # Nothing writes weights between steps, so they need not wait.
    block = _weights(weight, row, lane, IN_FEATURES, IS_EVEN)
    # In this order: see ``lora``'s shrink, which follows.
    wait_for_inputs(PDL)
    let_next_start(PDL)
    total = tl.zeros((BLOCK_OUT, BLOCK_IN), tl.float32)
    for index in range(BLOCKS - 1):
        column = index * BLOCK_IN + lane
        following = _weights(weight, row, column + BLOCK_IN, IN_FEATURES, IS_EVEN)
        total += _products(block, x, column, IN_FEATURES, IS_EVEN)
        block = following
    total += _products(block, x, (BLOCKS - 1) * BLOCK_IN + lane, IN_FEATURES, IS_EVEN)
    value = tl.sum(total, axis=1)
    inside = feature < out_features
    if bias is not None:
        value += tl.load(bias + feature, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + feature, value.to(y.dtype.element_ty), mask=inside)


def multiply(
    x: torch.Tensor, weight: DenseWeight, blocks: VectorBlocks, launcher: Launcher
) -> torch.Tensor:
    """Return ``x · weightᵀ + bias``, [1, out_features]; x is [1, in_features]."""
    out_features, in_features = weight.weight.shape
    y = torch.empty((1, out_features), dtype=x.dtype, device=x.device)
    launcher.run(
        linear_vector_kernel,
        (ceil_div(out_features, blocks.block_out),),
        x,
        weight.weight,
        weight.bias,
        y,
        out_features,
        IN_FEATURES=in_features,
        BLOCK_OUT=blocks.block_out,
        BLOCK_IN=blocks.block_in,
        num_warps=blocks.warps,
        **launcher.options(x.device),
    )
    return y
