"""Variants of kernels: what Triton compiles separately, and how that is done before a launch.

Beside constants and dtypes, Triton compiles for what it sees of each argument: a number that is 1,
or a multiple of 16, or neither; an address that is a multiple of 16, or not; whether a number needs
64 bits. Arguments that vary from call to call are therefore named in the kernels'
``do_not_specialize`` or ``do_not_specialize_on_alignment``, and are all alike here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALIGNMENT: Final = 16
"""What Triton looks for: bytes of addresses, and numbers."""

_MOST_OF_32_BITS: Final = 2**31 - 1


@dataclass(frozen=True)
class Pointer:
    """As much of a tensor as compiling asks for.

    Attributes
    ----------
    dtype : torch.dtype
    is_aligned : bool
        Whether its address is a multiple of 16.
    """

    dtype: torch.dtype
    is_aligned: bool

    def data_ptr(self) -> int:
        """Return an address of this kind."""
        return _ALIGNMENT if self.is_aligned else self.dtype.itemsize


Argument: TypeAlias = Pointer | int | float | None


@dataclass(frozen=True)
class Variant:
    """A kernel as it is compiled once.

    Call it to compile it, or to take it from Triton's cache on disk, and to load it on its device.

    Attributes
    ----------
    kernel : JITFunction
    device : torch.device
    arguments : tuple[Pointer | int | float | None, ...]
        One of each kind of argument that shares this variant.
    constants : tuple[tuple[str, object], ...]
        Constexpr arguments and options of the compiler, by name, in the order in which a launch
        names them: Triton tells variants apart by it too.
    """

    kernel: Any
    device: torch.device
    arguments: tuple[Argument, ...]
    constants: tuple[tuple[str, Any], ...]

    @classmethod
    def of(
        cls,
        kernel: Any,
        device: torch.device,
        arguments: tuple[Any, ...],
        constants: Mapping[str, Any],
    ) -> Variant:
        """Return the variant that a launch needs; tensors may be without memory."""
        params = kernel.params[: len(arguments)]
        seen = (
            _seen(argument, not param.do_not_specialize, not param.do_not_specialize_on_alignment)
            for argument, param in zip(arguments, params, strict=True)
        )
        return cls(kernel, device, tuple(seen), tuple(constants.items()))

    def compile(self) -> Any:
        """Return the compiled kernel."""
        return self.kernel.warmup(*self.arguments, grid=(1,), **dict(self.constants))

    def __call__(self) -> None:
        """Compile and load it."""
        with torch.cuda.device(self.device):
            # That it can be run: its module is on the device, and its launcher is compiled.
            _ = self.compile().run

    def __str__(self) -> str:
        return f"{self.kernel.__name__}{self.arguments}{dict(self.constants)}"


def _seen(argument: Any, is_specialized: bool, is_aligned: bool) -> Argument:
    """Return the argument that stands for all that Triton takes to be the same."""
    if isinstance(argument, torch.Tensor):
        # A tensor without memory says where in its memory it would begin.
        offset = argument.storage_offset() * argument.dtype.itemsize
        at = offset if argument.device.type == "meta" else argument.data_ptr()
        looks = is_specialized and is_aligned
        return Pointer(argument.dtype, not looks or at % _ALIGNMENT == 0)
    if isinstance(argument, int):
        base = 0 if abs(argument) <= _MOST_OF_32_BITS else 2 * (_MOST_OF_32_BITS + 1)
        if is_specialized and argument == 1:
            return 1
        looks = is_specialized and is_aligned
        return base + (_ALIGNMENT if looks and argument % _ALIGNMENT == 0 else 2)
    return 0.5 if isinstance(argument, float) else None
