"""Op contracts, the types they take, and the choice between the backends that implement them.

Importing this package imports no torch; an exported name that needs it does so when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait_kernels.attention_types import AttentionBatch
    from plait_kernels.backend import API_VERSION, Backend, Kernel, Reasons
    from plait_kernels.config import BUCKETS, DTYPES, OpConfig
    from plait_kernels.device import Device
    from plait_kernels.errors import KernelError, PlaitError
    from plait_kernels.hookspecs import hookimpl
    from plait_kernels.loader import Failure, LoadedBackends, load_backends
    from plait_kernels.lora_types import LoraBatch, LoraTable
    from plait_kernels.ops import OPS, load_op
    from plait_kernels.ops.contract import Op
    from plait_kernels.probe import device_of
    from plait_kernels.request import KernelRequest
    from plait_kernels.sampling_types import PenaltyBatch, SampleBatch
    from plait_kernels.selection import explain, select
    from plait_kernels.sites import SITE_GROUPS, LoraSite
    from plait_kernels.table import Candidate, Choice, KernelTable
    from plait_kernels.weights import DenseWeight

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "BUCKETS",
    "DTYPES",
    "OPS",
    "SITE_GROUPS",
    "AttentionBatch",
    "Backend",
    "Candidate",
    "Choice",
    "DenseWeight",
    "Device",
    "Failure",
    "Kernel",
    "KernelError",
    "KernelRequest",
    "KernelTable",
    "LoadedBackends",
    "LoraBatch",
    "LoraSite",
    "LoraTable",
    "Op",
    "OpConfig",
    "PenaltyBatch",
    "PlaitError",
    "Reasons",
    "SampleBatch",
    "device_of",
    "explain",
    "hookimpl",
    "load_backends",
    "load_op",
    "select",
]


def _module_of(name: str) -> str:
    match name:
        case "AttentionBatch":
            return "attention_types"
        case "API_VERSION" | "Backend" | "Kernel" | "Reasons":
            return "backend"
        case "BUCKETS" | "DTYPES" | "OpConfig":
            return "config"
        case "Device":
            return "device"
        case "KernelError" | "PlaitError":
            return "errors"
        case "hookimpl":
            return "hookspecs"
        case "Failure" | "LoadedBackends" | "load_backends":
            return "loader"
        case "LoraBatch" | "LoraTable":
            return "lora_types"
        case "OPS" | "load_op":
            return "ops"
        case "Op":
            return "ops.contract"
        case "device_of":
            return "probe"
        case "KernelRequest":
            return "request"
        case "PenaltyBatch" | "SampleBatch":
            return "sampling_types"
        case "explain" | "select":
            return "selection"
        case "SITE_GROUPS" | "LoraSite":
            return "sites"
        case "Candidate" | "Choice" | "KernelTable":
            return "table"
        case "DenseWeight":
            return "weights"
        case _:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module(f"{__name__}.{_module_of(name)}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
