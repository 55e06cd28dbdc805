"""The op ``silu_and_mul``: the gate of a SwiGLU block (Shazeer, 2020).

Static parameter: ``features``, n, half the columns of the input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from plait_kernels.ops.contract import Accuracy, Op
from plait_kernels.ops.random_inputs import generator, normal

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig

TOLERANCE = {"float32": (1e-5, 1e-5), "bfloat16": (1.6e-2, 1e-2), "float16": (2e-3, 2e-3)}

# ``silu(gate)`` may be rounded before it is multiplied.
ACCURACY = Accuracy(roundings=2)


class SiluAndMul(Protocol):
    """What a kernel for ``silu_and_mul`` is."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``silu(first half of the columns) · second half``.

        Parameters
        ----------
        x : Tensor [tokens, 2 · n]
            Gate columns, then up columns; rows may be strided. Not changed.

        Returns
        -------
        Tensor [tokens, n]
            New memory, in the dtype of x.
        """
        ...


def reference(config: OpConfig) -> SiluAndMul:
    """Make the reference; it takes any config."""
    return silu_and_mul


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """Compute in float64 throughout and round once."""
    gate, up = x.double().chunk(2, dim=-1)
    return (gate / (1 + torch.exp(-gate)) * up).to(x.dtype)


def inputs(
    seed: int,
    *,
    tokens: int = 7,
    features: int = 40,
    dtype: str = "float32",
    device: str = "cpu",
    padding: int = 0,
) -> tuple[torch.Tensor]:
    """Make the random argument ``(x,)``; ``padding`` > 0 makes it strided."""
    source = generator(seed)
    return (normal(source, tokens, 2 * features, dtype=dtype, device=device, padding=padding),)


OP = Op("silu_and_mul", reference, inputs, TOLERANCE, ACCURACY)
