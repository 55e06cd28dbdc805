"""``linear`` of dense weights: small batches here, large ones by cuBLAS.

Up to a hundred rows or so the product takes as long as the weight takes to be read, so the kernels
are made to read: many loads on the way at any time, and the first of them before the kernel's
inputs are ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from plait_triton import linear_matrix, linear_vector
from plait_triton.language import launch_options, shared_memory
from plait_triton.linear_choice import MAX_ROWS, Blocks, VectorBlocks, choose

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.ops.linear import Linear
    from plait_kernels.weights import DenseWeight


class TritonLinear:
    """See ``plait_kernels.ops.linear`` for the contract.

    Parameters
    ----------
    max_rows : int
        Calls with more rows go to torch without being looked at.
    """

    layout = "dense"

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._blocks: dict[tuple[int, int, int, torch.dtype], Blocks | None] = {}

    def prepare(self, weight: DenseWeight) -> DenseWeight:
        """Return ``weight``: prefill, through cuBLAS, reads it as it is."""
        return weight

    def __call__(self, x: torch.Tensor, weight: DenseWeight) -> torch.Tensor:
        """Multiply."""
        rows = x.shape[0]
        if not 0 < rows <= self._max_rows or not weight.weight.is_contiguous():
            return F.linear(x, weight.weight, weight.bias)
        out_features, in_features = weight.weight.shape
        size = rows, out_features, in_features, x.dtype
        if size not in self._blocks:
            self._blocks[size] = choose(*size, shared_memory(x.device))
        blocks = self._blocks[size]
        if blocks is None:
            return F.linear(x, weight.weight, weight.bias)
        options = launch_options(x.device)
        if isinstance(blocks, VectorBlocks):
            return linear_vector.multiply(x, weight, blocks, options)
        return linear_matrix.multiply(x, weight, blocks, options)


def make(config: OpConfig) -> Linear:
    """Make the kernel for one config; prompts are left to cuBLAS."""
    return TritonLinear(MAX_ROWS if config.bucket == "decode" else 0)
