"""``linear`` of dense weights: small batches here, large ones by cuBLAS.

Up to a hundred rows or so the product takes as long as the weight takes to be read, so the kernels
are made to read: many loads on the way at any time, and the first of them before the kernel's
inputs are ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from plait_kernels.weights import DenseWeight
from plait_triton import linear_matrix, linear_vector
from plait_triton.launching import (
    LAUNCHER,
    Launcher,
    Recorder,
    rows_without_memory,
    without_memory,
)
from plait_triton.linear_choice import MAX_ROWS, Blocks, VectorBlocks, choose

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plait_kernels.config import OpConfig
    from plait_kernels.ops.linear import Linear
    from plait_kernels.warm_up import EngineFacts
    from plait_triton.variants import Variant


class TritonLinear:
    """See ``plait_kernels.ops.linear`` for the contract.

    Parameters
    ----------
    config : OpConfig
    launcher : Launcher
    """

    layout = "dense"

    def __init__(self, config: OpConfig, launcher: Launcher = LAUNCHER) -> None:
        self._config = config
        self._launcher = launcher
        # Calls with more rows go to torch without being looked at: prompts are left to cuBLAS.
        self._max_rows = MAX_ROWS if config.bucket == "decode" else 0
        self._blocks: dict[tuple[int, int, int, torch.dtype], Blocks | None] = {}

    def prepare(self, weight: DenseWeight) -> DenseWeight:
        """Return ``weight``: prefill, through cuBLAS, reads it as it is.

        A copy if it begins anywhere: all weights of a shape are to be read in the same way.
        """
        matrix = weight.weight
        if matrix.data_ptr() % 16 == 0:
            return weight
        return DenseWeight(matrix.clone(memory_format=torch.preserve_format), weight.bias)

    def __call__(self, x: torch.Tensor, weight: DenseWeight) -> torch.Tensor:
        """Multiply."""
        rows = x.shape[0]
        if not 0 < rows <= self._max_rows or not weight.weight.is_contiguous():
            return F.linear(x, weight.weight, weight.bias)
        out_features, in_features = weight.weight.shape
        blocks = self._blocks_of(rows, out_features, in_features, x)
        if blocks is None:
            return F.linear(x, weight.weight, weight.bias)
        if isinstance(blocks, VectorBlocks):
            return linear_vector.multiply(x, weight, blocks, self._launcher)
        return linear_matrix.multiply(x, weight, blocks, self._launcher)

    def warm_up(self, facts: EngineFacts) -> Iterable[Variant]:
        """List the variants of the kernels; see ``plait_kernels.warm_up``."""
        recorder, dtype = Recorder(facts.device), getattr(torch, self._config.dtype)
        names = ("out_features", "in_features")
        out_features, in_features = (int(self._config.get(name) or 0) for name in names)
        linear = TritonLinear(self._config, recorder)
        bias = without_memory(out_features, dtype=dtype) if self._config.get("bias") else None
        weight = DenseWeight(without_memory(out_features, in_features, dtype=dtype), bias)
        for rows in range(1, 1 + min(self._max_rows, self._config.max_tokens)):
            for x in rows_without_memory(rows, in_features, dtype):
                linear(x, weight)
        return recorder.variants

    def _blocks_of(
        self, rows: int, out_features: int, in_features: int, x: torch.Tensor
    ) -> Blocks | None:
        size = rows, out_features, in_features, x.dtype
        if size not in self._blocks:
            self._blocks[size] = choose(*size, self._launcher.shared_memory(x.device))
        return self._blocks[size]


def make(config: OpConfig) -> Linear:
    """Make the kernel for one config."""
    return TritonLinear(config)
