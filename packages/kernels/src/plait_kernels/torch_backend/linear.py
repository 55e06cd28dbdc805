"""``linear`` by torch's own, with float16 products of many tokens taken in float32 on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.ops.linear import Linear
    from plait_kernels.weights import DenseWeight

FLOAT16_TOKENS = 4
"""The most tokens for which a float16 product on the CPU is taken as it is.

Torch has no fast float16 matrix product for the CPU. From a few tokens on, converting the weight
costs less than multiplying by it in float16.
"""


def make(config: OpConfig) -> Linear:
    """Make the kernel for one config."""

    def linear(x: torch.Tensor, weight: DenseWeight) -> torch.Tensor:
        return F.linear(x, weight.weight, weight.bias)

    def linear_float16(x: torch.Tensor, weight: DenseWeight) -> torch.Tensor:
        if x.shape[0] <= FLOAT16_TOKENS or x.device.type != "cpu":
            return linear(x, weight)
        bias = None if weight.bias is None else weight.bias.float()
        return F.linear(x.float(), weight.weight.float(), bias).half()

    return linear_float16 if config.dtype == "float16" else linear
