"""Op: what every file in ``plait_kernels.ops`` says about its op."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plait_kernels.config import OpConfig


@dataclass(frozen=True, eq=False)
class Op:
    """A named contract that kernels implement. Nothing here imports torch.

    The op's meaning is its ``reference``; a kernel is right when it agrees with the reference
    within ``tolerance`` on what ``inputs`` generates.

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
        (rtol, atol) by dtype name, a key of ``plait_kernels.config.DTYPES``. Kept read-only.
    """

    name: str
    reference: Callable[[OpConfig], object]
    inputs: Callable[..., object]
    tolerance: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        read_only: Any = MappingProxyType(dict(self.tolerance))
        object.__setattr__(self, "tolerance", read_only)
