"""The cases: one module an op, each with the constant ``CASES``. None imports torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plait_testing.case import OpCases

__all__ = ["load_cases"]


def load_cases(op: str) -> OpCases:
    """Return the cases of an op, a key of ``plait_kernels.ops.OPS``."""
    cases: OpCases = importlib.import_module(f"{__name__}.{op}").CASES
    return cases
