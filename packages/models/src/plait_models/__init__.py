"""The model zoo: read a model's files, build it on kernels chosen by the caller, run it.

Example
-------
>>> model = plait_models.load("path/to/model", build_kernels=build_kernels)  # doctest: +SKIP
>>> hidden = model.forward(inputs)  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait_models.config import ARCHITECTURES, ModelConfig
    from plait_models.loading import BuildKernels, Progress, load
    from plait_models.model import Model, ModelInfo, StepInputs
    from plait_models.reading import read_config

__version__ = "0.1.0"

__all__ = [
    "ARCHITECTURES",
    "BuildKernels",
    "Model",
    "ModelConfig",
    "ModelInfo",
    "Progress",
    "StepInputs",
    "load",
    "read_config",
]

_HOMES = {
    "ARCHITECTURES": "config",
    "BuildKernels": "loading",
    "Model": "model",
    "ModelConfig": "config",
    "ModelInfo": "model",
    "Progress": "loading",
    "StepInputs": "model",
    "load": "loading",
    "read_config": "reading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
