"""What the references compute, kept while the tests of a session run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait_kernels.config import BUCKETS
from plait_kernels.ops import load_op

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from plait_testing.case import Case, OpCases


def results(op_cases: OpCases, arguments: Any, output: torch.Tensor | None) -> Mapping[str, Any]:
    """Return everything that a call has brought: new memory and changed arguments, by name."""
    found = dict(op_cases.targets(arguments))
    if output is not None:
        found["the output"] = op_cases.specified(arguments, output)
    return found


def compute(op_cases: OpCases, case: Case, dtype: str, arguments: Any) -> Mapping[str, Any]:
    """Call the reference; it changes ``arguments`` where the op works in place."""
    # The meaning of an op does not depend on the bucket.
    reference = load_op(op_cases.op).reference(case.config(op_cases.op, dtype, BUCKETS[0]))
    prepared = op_cases.prepare(reference, arguments)
    return results(op_cases, arguments, op_cases.call(reference, prepared))


class References:
    """Computes the expected results of a case once; references are slow."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, int, str, str], Mapping[str, Any]] = {}

    def results(
        self, op_cases: OpCases, case: Case, seed: int, dtype: str, device: str
    ) -> Mapping[str, Any]:
        """Return what the reference makes of the arguments of a case, by name."""
        key = op_cases.op, case.name, seed, dtype, device
        if key not in self._kept:
            arguments = op_cases.arguments(case, seed, dtype, device)
            self._kept[key] = compute(op_cases, case, dtype, arguments)
        return self._kept[key]
