"""LoRA adapters: files, identity, tiers of memory and the batch that kernels see.

Importing this package imports no torch; an exported name that needs it does so when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait_lora.adapter import Adapter
    from plait_lora.arena import LoraArena
    from plait_lora.batch import build_batch
    from plait_lora.catalog import AdapterCatalog
    from plait_lora.commands import LoadCommand, StoreCommands
    from plait_lora.identity import BASE_MIX, AdapterKey, Mix
    from plait_lora.layout import AdapterLayout, ModuleShape
    from plait_lora.lease import AdapterState, Lease
    from plait_lora.request import LoRARequest
    from plait_lora.store import AdapterStore
    from plait_lora.weights import DenseWeights, ModuleWeights

__version__ = "0.1.0"

__all__ = [
    "BASE_MIX",
    "Adapter",
    "AdapterCatalog",
    "AdapterKey",
    "AdapterLayout",
    "AdapterState",
    "AdapterStore",
    "DenseWeights",
    "Lease",
    "LoRARequest",
    "LoadCommand",
    "LoraArena",
    "Mix",
    "ModuleShape",
    "ModuleWeights",
    "StoreCommands",
    "build_batch",
]


def _module_of(name: str) -> str:
    match name:
        case "Adapter":
            return "adapter"
        case "LoraArena":
            return "arena"
        case "build_batch":
            return "batch"
        case "AdapterCatalog":
            return "catalog"
        case "LoadCommand" | "StoreCommands":
            return "commands"
        case "BASE_MIX" | "AdapterKey" | "Mix":
            return "identity"
        case "AdapterLayout" | "ModuleShape":
            return "layout"
        case "AdapterState" | "Lease":
            return "lease"
        case "LoRARequest":
            return "request"
        case "AdapterStore":
            return "store"
        case "DenseWeights" | "ModuleWeights":
            return "weights"
        case _:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module(f"{__name__}.{_module_of(name)}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
