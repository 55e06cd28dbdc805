"""What the references compute, kept while the tests of a session run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from plait_kernels.config import BUCKETS
from plait_kernels.ops import load_op
from plait_kernels.ops.contract import Accuracy
from plait_testing.accuracy import Expected
from plait_testing.tensors import map_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_testing.case import Case, OpCases

OUTPUT = "the output"
"""Name of the new memory that a call returns."""


def results(op_cases: OpCases, arguments: Any, output: torch.Tensor | None) -> Mapping[str, Any]:
    """Return everything that a call has brought: new memory and changed arguments, by name."""
    found = dict(op_cases.targets(arguments))
    if output is not None:
        found[OUTPUT] = op_cases.specified(arguments, output)
    return found


def compute(op_cases: OpCases, case: Case, dtype: str, arguments: Any) -> Mapping[str, Expected]:
    """Call the reference on a copy of ``arguments``: on the CPU, in float64 if it may be rounded.

    On a GPU the many small calls of a reference would take seconds.
    """
    op = load_op(op_cases.op)
    accuracy = case.accuracy or op.accuracy
    # The meaning of an op does not depend on the bucket.
    reference = op.reference(case.config(op_cases.op, dtype, BUCKETS[0]))
    copy = _copy(arguments, is_wide=accuracy is not None)
    output = op_cases.call(reference, op_cases.prepare(reference, copy))
    found = results(op_cases, copy, output)
    if accuracy is None:
        return {name: Expected(values, values.dtype) for name, values in found.items()}
    before = _copy(arguments, is_wide=True)
    return {
        name: Expected(
            values,
            getattr(torch, dtype),
            op_cases.magnitude(case, before, values).expand(values.shape),
            accuracy if name == OUTPUT else Accuracy(),
        )
        for name, values in found.items()
    }


def _copy(arguments: Any, *, is_wide: bool) -> Any:
    def copy(path: str, values: torch.Tensor) -> torch.Tensor:
        wide = is_wide and values.is_floating_point()
        return values.detach().to("cpu", torch.float64 if wide else values.dtype, copy=True)

    return map_tensors(arguments, copy)


class References:
    """Computes the expected results of a case once; references are slow."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, int, str], Mapping[str, Expected]] = {}

    def results(
        self, op_cases: OpCases, case: Case, seed: int, dtype: str
    ) -> Mapping[str, Expected]:
        """Return what the reference makes of the arguments of a case, by name."""
        key = op_cases.op, case.name, seed, dtype
        if key not in self._kept:
            arguments = op_cases.arguments(case, seed, dtype, "cpu")
            self._kept[key] = compute(op_cases, case, dtype, arguments)
        return self._kept[key]
