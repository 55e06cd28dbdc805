"""Triton kernels for NVIDIA GPUs. This module declares them and is light."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Final

from plait_kernels.backend import API_VERSION, Backend, Kernel, Reasons
from plait_kernels.hookspecs import hookimpl

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.device import Device

__version__ = "0.1.0"

__all__ = ["plait_kernel_backend"]

OPS: Final = (
    "apply_penalties",
    "attention",
    "fused_add_rms_norm",
    "kv_write",
    "linear",
    "lora",
    "rms_norm",
    "rotary_embedding",
    "sample",
    "silu_and_mul",
)

MIN_CAPABILITY: Final = (8, 0)
MAX_HEAD_DIM: Final = 256


def reasons_against(config: OpConfig) -> Reasons:
    """Refuse the variants of an op that this backend does not compute."""
    if config.op == "attention":
        return _against_attention(config)
    if config.op == "linear" and config.get("format") != "dense":
        return (f"takes weights of format 'dense', not {config.get('format')!r}",)
    return ()


def _against_attention(config: OpConfig) -> Reasons:
    reasons = []
    if config.get("sinks") is not None:
        reasons.append(f"sinks={config.get('sinks')!r} is not implemented")
    head_dim = config.get("head_dim")
    if head_dim is not None and int(head_dim) > MAX_HEAD_DIM:
        reasons.append(f"head_dim={head_dim} is more than {MAX_HEAD_DIM}")
    return tuple(reasons)


def probe(device: Device) -> Reasons:
    """Say why this machine cannot run the kernels."""
    if importlib.util.find_spec("triton") is None:
        return ("the package triton is not installed: pip install triton",)
    if device.type == "cpu" and not _interpreted():
        return ("runs on a CPU under Triton's interpreter only: set TRITON_INTERPRET=1",)
    return ()


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


@hookimpl
def plait_kernel_backend() -> Backend:
    """Declare the backend ``triton``: for GPUs, or for the CPU under Triton's interpreter."""
    # Interpreted kernels are for tests: whatever else can run a config is taken before them.
    devices, priority = (("cpu",), -10) if _interpreted() else (("cuda",), 20)
    kernels = (
        Kernel(
            op,
            f"plait_triton.{op}:make",
            devices=devices,
            min_capability=MIN_CAPABILITY,
            supports=reasons_against,
            priority=priority,
            graph_safe=True,
        )
        for op in OPS
    )
    return Backend("triton", tuple(kernels), api_version=API_VERSION, probe=probe)
