"""Conformance tests for kernel backends. See ``KernelConformance``.

Importing this package imports no torch, so that pytest can load the plugin in any project.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait_testing.conformance import KernelConformance
    from plait_testing.departures import Narrowing, deviation

__version__ = "0.1.0"

__all__ = ["KernelConformance", "Narrowing", "deviation"]


def _module_of(name: str) -> str:
    match name:
        case "KernelConformance":
            return "conformance"
        case "Narrowing" | "deviation":
            return "departures"
        case _:
            msg = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(msg)


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module(f"{__name__}.{_module_of(name)}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
