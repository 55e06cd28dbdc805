"""Kernels in C++ for the CPU, compiled on first use. This module declares them and is light."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from plait_kernels.backend import Backend, Kernel, Reasons
from plait_kernels.hookspecs import hookimpl

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.device import Device

__version__ = "0.1.0"

__all__ = ["plait_kernel_backend"]

OPS: Final = (
    "attention",
    "fused_add_rms_norm",
    "kv_write",
    "lora",
    "rms_norm",
    "rotary_embedding",
    "silu_and_mul",
)

MAX_HEAD_DIM: Final = 512


def reasons_against(config: OpConfig) -> Reasons:
    """Refuse the variants of an op that this backend does not compute."""
    if config.op != "attention":
        return ()
    reasons = [
        f"{name}={config.get(name)!r} is not implemented"
        for name in ("window", "softcap", "sinks")
        if config.get(name) is not None
    ]
    head_dim = config.get("head_dim")
    if head_dim is not None and int(head_dim) > MAX_HEAD_DIM:
        reasons.append(f"head_dim={head_dim} is more than {MAX_HEAD_DIM}")
    if config.bucket != "decode":
        reasons.append("it attends single queries: bucket decode only")
    return tuple(reasons)


def probe(device: Device) -> Reasons:
    """Compile the kernels, if that has not been done yet; say why it is not possible."""
    if device.type != "cpu":
        return (f"for the CPU only, this device is {device.type}",)
    from plait_cpu.compiler import BuildError, build

    try:
        build()
    except BuildError as error:
        return (str(error),)
    return ()


@hookimpl
def plait_kernel_backend() -> Backend:
    """Declare the backend ``cpu``."""
    kernels = (
        Kernel(
            op,
            f"plait_cpu.{op}:make",
            devices=("cpu",),
            dtypes=("float32", "bfloat16"),
            supports=reasons_against,
            priority=10,
        )
        for op in OPS
    )
    return Backend("cpu", tuple(kernels), probe=probe)
