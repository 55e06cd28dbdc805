"""The backend ``example``: what it can do, declared without importing torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from plait_kernels import Backend, Kernel, Reasons, hookimpl

if TYPE_CHECKING:
    from plait_kernels import OpConfig

__all__ = ["LANES", "plait_kernel_backend"]

LANES: Final = 8
"""Partial sums that ``rms_norm`` takes side by side."""


def _whole_lanes(config: OpConfig) -> Reasons:
    hidden = int(config.get("hidden") or 0)
    if hidden % LANES:
        return (f"hidden={hidden} is not a multiple of {LANES}",)
    return ()


@hookimpl
def plait_kernel_backend() -> Backend:
    """Declare the backend ``example``."""
    return Backend(
        "example",
        (
            Kernel(
                "rms_norm",
                "plait_example.rms_norm:make",
                supports=_whole_lanes,
                priority=100,
                graph_safe=True,
            ),
            Kernel(
                "silu_and_mul",
                "plait_example.silu_and_mul:make",
                # In float32 there is no rounding to save.
                dtypes=("bfloat16", "float16"),
                priority=100,
                graph_safe=True,
            ),
        ),
        # The number and not API_VERSION, so that a plait with another one can tell.
        api_version=1,
    )
