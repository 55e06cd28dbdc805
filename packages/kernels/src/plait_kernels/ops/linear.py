"""The op ``linear``: the projection of the base model.

Static parameters: ``in_features``, ``out_features``, ``format`` (of the weight object, ``"dense"``
so far) and ``bias`` (whether there is one).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from plait_kernels.ops.contract import Accuracy, Op
from plait_kernels.ops.random_inputs import generator, normal
from plait_kernels.weights import DenseWeight

if TYPE_CHECKING:
    import torch

    from plait_kernels.config import OpConfig

TOLERANCE = {"float32": (1e-5, 1e-5), "bfloat16": (1.6e-2, 1e-2), "float16": (2e-3, 2e-3)}


class Linear(Protocol):
    """What a kernel for ``linear`` is.

    A weight is prepared once, when the model is loaded, and used at every call. The dense matrix
    may be freed after that.
    """

    @property
    def layout(self) -> str:
        """Name of what ``prepare`` makes: kernels of one layout share prepared weights."""
        ...

    def prepare(self, weight: DenseWeight) -> Any:
        """Bring a weight into the form that the kernel reads fastest.

        Parameters
        ----------
        weight : DenseWeight
            Matrix [out_features, in_features] and bias [out_features] or None, in the dtype of
            the config. Not changed.

        Returns
        -------
        object
            What ``__call__`` takes; ``weight`` itself where no other form is better.
        """
        ...

    def __call__(self, x: torch.Tensor, weight: Any) -> torch.Tensor:
        """Return ``x · weightᵀ + bias``.

        Parameters
        ----------
        x : Tensor [tokens, in_features]
            Activations; rows may be strided. Not changed.
        weight : object
            What ``prepare`` of a kernel with this layout returned.

        Returns
        -------
        Tensor [tokens, out_features]
            New memory, contiguous, in the dtype of x. Sums are accumulated in float32.
        """
        ...


class ReferenceLinear:
    """A product in float64, rounded once; dense weights as they are."""

    layout = "dense"

    def prepare(self, weight: DenseWeight) -> DenseWeight:
        """Return ``weight``."""
        return weight

    def __call__(self, x: torch.Tensor, weight: DenseWeight) -> torch.Tensor:
        """See ``Linear``."""
        y = x.double() @ weight.weight.double().T
        if weight.bias is not None:
            y += weight.bias.double()
        return y.to(x.dtype)


def reference(config: OpConfig) -> Linear:
    """Make the reference."""
    return ReferenceLinear()


def inputs(
    seed: int,
    *,
    tokens: int = 7,
    in_features: int = 40,
    out_features: int = 24,
    bias: bool = True,
    dtype: str = "float32",
    device: str = "cpu",
    padding: int = 0,
) -> tuple[torch.Tensor, DenseWeight]:
    """Make random arguments ``(x, weight)``; ``padding`` > 0 makes x strided."""
    source = generator(seed)
    x = normal(source, tokens, in_features, dtype=dtype, device=device, padding=padding)
    matrix = normal(source, out_features, in_features, dtype=dtype, device=device)
    matrix = matrix * in_features**-0.5
    offset = normal(source, out_features, dtype=dtype, device=device) if bias else None
    return x, DenseWeight(matrix, offset)


OP = Op("linear", reference, inputs, TOLERANCE, Accuracy())
