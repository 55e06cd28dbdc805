"""Kernels in C++ for the CPU, compiled on first use. This module declares them and is light."""

from __future__ import annotations

import sys
from types import MappingProxyType
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

# Embedding sites and mixes with dense entries.
USES: Final = MappingProxyType({"lora": ("torch",)})


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
    """Look whether the kernels can be compiled here; nothing is compiled or written."""
    if device.type != "cpu":
        return (f"for the CPU only, this device is {device.type}",)
    if sys.platform != "linux":
        return (f"compiled on Linux only, this is {sys.platform}",)
    from plait_cpu.compiler import cpp_compiler
    from plait_kernels.compile_cache import objections
    from plait_kernels.errors import BackendUnusable

    try:
        cpp_compiler()
    except BackendUnusable as error:
        return (str(error),)
    return objections()


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
            uses=USES.get(op, ()),
        )
        for op in OPS
    )
    return Backend("cpu", tuple(kernels), probe=probe)
