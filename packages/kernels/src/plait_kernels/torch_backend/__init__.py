"""The backend ``torch``: every op, vectorised, on any device that torch has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from plait_kernels.backend import Backend, Kernel, Reasons
from plait_kernels.hookspecs import hookimpl
from plait_kernels.ops import OPS

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig

__all__ = ["plait_kernel_backend", "reasons_against"]

# The others read device data on the host to know what there is to do.
GRAPH_SAFE: Final = frozenset(
    {"rms_norm", "fused_add_rms_norm", "rotary_embedding", "silu_and_mul", "linear"}
)


def reasons_against(config: OpConfig) -> Reasons:
    """Refuse the variants of an op that this backend does not compute."""
    if config.op == "attention":
        return tuple(
            f"{name}={config.get(name)!r} is not implemented"
            for name in ("window", "softcap", "sinks")
            if config.get(name) is not None
        )
    if config.op == "linear" and config.get("format", "dense") != "dense":
        return (f"weight format {config.get('format')!r} is not implemented",)
    return ()


@hookimpl
def plait_kernel_backend() -> Backend:
    """Declare the backend ``torch``."""
    kernels = (
        Kernel(
            op,
            f"plait_kernels.torch_backend.{op}:make",
            supports=reasons_against,
            graph_safe=op in GRAPH_SAFE,
        )
        for op in OPS
    )
    return Backend("torch", tuple(kernels))
