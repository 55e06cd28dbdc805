"""The ops: one module each, with its contract, its reference, random inputs and tolerances.

Importing this package imports no torch; importing an op's module does.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING

from plait_kernels.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_kernels.ops.contract import Op

__all__ = ["OPS", "load_op"]

OPS: Mapping[str, str] = MappingProxyType(
    {
        name: f"plait_kernels.ops.{name}"
        for name in (
            "rms_norm",
            "fused_add_rms_norm",
            "rotary_embedding",
            "silu_and_mul",
            "linear",
            "kv_write",
            "attention",
            "lora",
            "apply_penalties",
            "sample",
        )
    }
)
"""Module of each op's contract, by the op's name."""


def load_op(name: str) -> Op:
    """Import an op's contract (and with it torch).

    Parameters
    ----------
    name : str
        A key of ``OPS``.

    Returns
    -------
    Op
        The constant ``OP`` of the op's module.

    Raises
    ------
    KernelError
        The name is not an op.
    """
    if name not in OPS:
        msg = f"unknown op {name!r}; use one of {', '.join(OPS)}"
        raise KernelError(msg)
    op: Op = importlib.import_module(OPS[name]).OP
    return op
