"""``linear`` by torch; on a CPU through oneDNN, with weights packed once.

torch's plain product reads a weight [out, in] at a third of the bandwidth there is when it has few
rows to multiply. oneDNN in the blocked layout that it chooses itself comes close to all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
import torch.nn.functional as F

from plait_kernels.weights import DenseWeight

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.ops.linear import Linear

FLOAT16_TOKENS = 4
"""The most tokens for which a float16 product on the CPU is taken as it is.

Torch has no fast float16 matrix product for the CPU. From a few tokens on, converting the weight
costs less than multiplying by it in float16.
"""


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight in oneDNN's layout.

    Attributes
    ----------
    matrix : Tensor
        Opaque.
    bias : Tensor [out_features] | None
    """

    matrix: torch.Tensor
    bias: torch.Tensor | None


Weight: TypeAlias = DenseWeight | PackedWeight


class TorchLinear:
    """See ``plait_kernels.ops.linear`` for the contract."""

    layout = "torch"

    def __init__(self) -> None:
        self._packed = getattr(torch.ops.mkldnn, "_linear_pointwise", None)

    def prepare(self, weight: DenseWeight) -> Weight:
        """Pack a weight where oneDNN computes its dtype."""
        if self._packed is None or not _can_pack(weight.weight):
            return weight
        return PackedWeight(torch.ops.mkldnn._reorder_linear_weight(weight.weight), weight.bias)

    def __call__(self, x: torch.Tensor, weight: Weight) -> torch.Tensor:
        """Multiply."""
        if isinstance(weight, PackedWeight) and self._packed is not None:
            y: torch.Tensor = self._packed(x, weight.matrix, weight.bias, "none", [], "")
            return y
        assert isinstance(weight, DenseWeight)
        if x.dtype == torch.float16 and x.device.type == "cpu" and x.shape[0] > FLOAT16_TOKENS:
            bias = None if weight.bias is None else weight.bias.float()
            return F.linear(x.float(), weight.weight.float(), bias).half()
        return F.linear(x, weight.weight, weight.bias)


def make(config: OpConfig) -> Linear:
    """Make the kernel for one config."""
    return TorchLinear()


def _can_pack(matrix: torch.Tensor) -> bool:
    if matrix.device.type != "cpu":
        return False
    if matrix.dtype == torch.bfloat16:
        # Where the processor has no bfloat16 products, oneDNN's are slower than torch's.
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return matrix.dtype == torch.float32
