"""The references as a backend: the meaning of every op, slow, chosen by name only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait_kernels.backend import Backend, Kernel, Reasons
from plait_kernels.hookspecs import hookimpl
from plait_kernels.ops import OPS

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig

__all__ = ["plait_kernel_backend", "reasons_against"]


def reasons_against(config: OpConfig) -> Reasons:
    """Refuse what no reference has been written for."""
    if config.op == "attention" and config.get("sinks") is not None:
        return (f"sinks={config.get('sinks')!r} has no reference",)
    if config.op == "linear" and config.get("format", "dense") != "dense":
        return (f"weight format {config.get('format')!r} has no reference",)
    return ()


@hookimpl
def plait_kernel_backend() -> Backend:
    """Declare the backend ``reference``."""
    kernels = tuple(
        Kernel(op, f"{module}:reference", supports=reasons_against) for op, module in OPS.items()
    )
    return Backend("reference", kernels, automatic=False)
