"""The op ``rms_norm``: root mean square layer normalisation (Zhang and Sennrich, 2019).

Static parameter: ``hidden``, the size of the last dimension.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from plait_kernels.ops.contract import Accuracy, Op
from plait_kernels.ops.random_inputs import generator, normal

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig

TOLERANCE = {"float32": (1e-5, 1e-5), "bfloat16": (1.6e-2, 1e-2), "float16": (2e-3, 2e-3)}


class RMSNorm(Protocol):
    """What a kernel for ``rms_norm`` is."""

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Return ``x / sqrt(mean(x²) + eps) · weight``, the mean over the last dimension.

        Parameters
        ----------
        x : Tensor [tokens, hidden]
            Activations; rows may be strided. Not changed.
        weight : Tensor [hidden]
            In the dtype of x.
        eps : float
            Added to the mean of the squares.

        Returns
        -------
        Tensor [tokens, hidden]
            New memory, in the dtype of x. The mean is taken in float32.
        """
        ...


def reference(config: OpConfig) -> RMSNorm:
    """Make the reference: float64 throughout, rounded once."""

    def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.double()
        mean_square = wide.square().mean(dim=-1, keepdim=True)
        return (wide / torch.sqrt(mean_square + eps) * weight.double()).to(x.dtype)

    return rms_norm


def inputs(
    seed: int,
    *,
    tokens: int = 7,
    hidden: int = 48,
    dtype: str = "float32",
    device: str = "cpu",
    padding: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Make random arguments ``(x, weight, eps)``; ``padding`` > 0 makes x strided."""
    source = generator(seed)
    x = normal(source, tokens, hidden, dtype=dtype, device=device, padding=padding)
    weight = normal(source, hidden, dtype=dtype, device=device)
    return x, weight, 1e-5


OP = Op("rms_norm", reference, inputs, TOLERANCE, Accuracy(is_norm=True))
