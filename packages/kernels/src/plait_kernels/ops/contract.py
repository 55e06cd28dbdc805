"""Op: what every file in ``plait_kernels.ops`` says about its op."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plait_kernels.config import OpConfig


FLOAT32_SUMS = 2.0**-18
"""What sums in float32 may lose, as a part of the magnitude of their terms: 64 unit roundoffs."""


@dataclass(frozen=True)
class Accuracy:
    """How far from the exact result a right one may be, by how often it is rounded.

    The exact result is what the reference makes of the arguments in float64. With u, half the
    distance of 1 to the next number of the activations' dtype, a right result is within
    ``roundings · u · |exact| + (inner · u + FLOAT32_SUMS) · magnitude`` of it, where the magnitude
    is that of the terms that are summed.

    Attributes
    ----------
    roundings : int
        How often new memory is rounded to the activations' dtype; 1 = when it is written. What is
        changed in place is rounded once in any op.
    inner : int
        How often the terms of its sums are.
    is_norm : bool
        Whether a row is divided by one number of its own. That number is float32, so the errors of
        the row have nothing in common.
    """

    roundings: int = 1
    inner: int = 0
    is_norm: bool = False


@dataclass(frozen=True, eq=False)
class Op:
    """A named contract that kernels implement. Nothing here imports torch.

    The op's meaning is its ``reference``; a kernel is right when it agrees with the reference
    within ``accuracy`` on what ``inputs`` generates.

    Attributes
    ----------
    name : str
        Key of ``plait_kernels.ops.OPS``.
    reference : Callable[[OpConfig], object]
        The factory of the reference implementation: short and obvious, not fast. What it returns
        has the signature of the op's contract.
    inputs : Callable[..., object]
        Makes random inputs from a seed; its further arguments are the op's own.
    tolerance : Mapping[str, tuple[float, float]]
        (rtol, atol) by dtype name, a key of ``plait_kernels.config.DTYPES``: within what a result
        that is of the order of 1 agrees with the reference in the same dtype. Kept read-only.
    accuracy : Accuracy | None
        What the conformance tests hold a kernel to; None = the reference's bits.
    """

    name: str
    reference: Callable[[OpConfig], object]
    inputs: Callable[..., object]
    tolerance: Mapping[str, tuple[float, float]]
    accuracy: Accuracy | None = None

    def __post_init__(self) -> None:
        read_only: Any = MappingProxyType(dict(self.tolerance))
        object.__setattr__(self, "tolerance", read_only)
