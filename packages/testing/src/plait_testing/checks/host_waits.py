"""Notice, without a GPU, that the host would wait for data of the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from plait_testing.failure import fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# Their result, or its shape, depends on the data of a tensor.
WAITING_OPERATORS: Final = frozenset(
    {
        "_local_scalar_dense",
        "_unique",
        "_unique2",
        "bincount",
        "equal",
        "is_nonzero",
        "item",
        "masked_select",
        "nonzero",
        "unique_consecutive",
        "unique_dim",
        "unique_dim_consecutive",
    }
)

# Torch answers these for a CPU tensor without calling an operator.
WAITING_METHODS: Final = ("__array__", "cpu", "numpy", "tolist")


def _fail(name: str) -> None:
    fail(
        f"it is declared graph_safe, and calls {name}, for which the host must wait for the "
        "device: that cannot be captured; keep such decisions on the device, or declare "
        "graph_safe=False",
        shows_where=True,
    )


class NoWaitingOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails when an operator is called whose result the host would have to wait for."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Look at the operator, then call it."""
        name = func.overloadpacket.__name__
        if name in WAITING_OPERATORS or (name.startswith("index") and _has_mask(args)):
            _fail(f"the operator {func}")
        if name == "repeat_interleave" and dict(kwargs or {}).get("output_size") is None:
            _fail(f"the operator {func} without output_size")
        return func(*args, **(kwargs or {}))


def _has_mask(args: tuple[Any, ...]) -> bool:
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    masks = (torch.bool, torch.uint8)
    return any(isinstance(index, torch.Tensor) and index.dtype in masks for index in indices)


class NoWaitingMethods(TorchFunctionMode):
    """Fails when a method is called that brings data to the host."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Look at the method, then call it."""
        name = getattr(func, "__name__", "")
        if name in WAITING_METHODS:
            _fail(f"Tensor.{name}")
        return func(*args, **(kwargs or {}))
