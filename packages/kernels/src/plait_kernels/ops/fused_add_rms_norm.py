"""The op ``fused_add_rms_norm``: add to the residual stream, then ``rms_norm`` of the sum.

Static parameter: ``hidden``, the size of the last dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from plait_kernels.ops import rms_norm
from plait_kernels.ops.contract import Accuracy, Op
from plait_kernels.ops.random_inputs import generator, normal

if TYPE_CHECKING:
    import torch

    from plait_kernels.config import OpConfig

TOLERANCE = rms_norm.TOLERANCE

# The norm may be that of the sum as it is stored: the sum is rounded, and so its size changes.
ACCURACY = Accuracy(roundings=3, is_norm=True)


class FusedAddRMSNorm(Protocol):
    """What a kernel for ``fused_add_rms_norm`` is."""

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        """Add x to the residual in place and return the norm of the sum.

        Parameters
        ----------
        x : Tensor [tokens, hidden]
            What a block of the model returned; rows may be strided. Not changed.
        residual : Tensor [tokens, hidden]
            Becomes ``residual + x``, rounded to its dtype. Same dtype as x.
        weight : Tensor [hidden]
            Of the norm, in the dtype of x.
        eps : float
            Added to the mean of the squares.

        Returns
        -------
        Tensor [tokens, hidden]
            ``rms_norm(residual + x, weight, eps)``; new memory.
        """
        ...


def reference(config: OpConfig) -> FusedAddRMSNorm:
    """Make the reference: an addition, then the reference of ``rms_norm``."""
    norm = rms_norm.reference(config)

    def fused_add_rms_norm(
        x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        residual.copy_(residual + x)
        return norm(residual, weight, eps)

    return fused_add_rms_norm


def inputs(
    seed: int,
    *,
    tokens: int = 7,
    hidden: int = 48,
    dtype: str = "float32",
    device: str = "cpu",
    padding: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    """Make random arguments ``(x, residual, weight, eps)``; ``padding`` > 0 strides the rows."""
    source = generator(seed)
    x = normal(source, tokens, hidden, dtype=dtype, device=device, padding=padding)
    residual = normal(source, tokens, hidden, dtype=dtype, device=device, padding=padding)
    weight = normal(source, hidden, dtype=dtype, device=device)
    return x, residual, weight, 1e-5


OP = Op("fused_add_rms_norm", reference, inputs, TOLERANCE, ACCURACY)
