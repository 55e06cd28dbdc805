"""A kernel agrees with the op's reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from plait_kernels.ops import load_op
from plait_testing.failure import fail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_testing.subject import Subject


def check_agreement(subject: Subject) -> None:
    """Compare the results of one call, within the op's tolerance."""
    compare(subject, subject.run(subject.make(), subject.arguments()), subject.expected())


def compare(
    subject: Subject, got: Mapping[str, Any], expected: Mapping[str, Any], context: str = ""
) -> None:
    """Fail unless every result has the reference's shape, dtype and device, and its values.

    Parameters
    ----------
    subject : Subject
    got, expected : Mapping[str, Tensor]
        Results by name.
    context : str
        Goes before the message.
    """
    tolerance = load_op(subject.kernel.op).tolerance[subject.dtype]
    rtol, atol = (subject.case.leeway * bound for bound in tolerance)
    if got.keys() != expected.keys():
        fail(
            f"{context}the call brought {', '.join(got) or 'nothing'}; "
            f"the contract says {', '.join(expected)}"
        )
    for name, values in expected.items():
        found = got[name]
        if not isinstance(found, torch.Tensor):
            fail(f"{context}{name} is {type(found).__name__}, not a Tensor")
        for what in ("shape", "dtype", "device"):
            if getattr(found, what) != getattr(values, what):
                fail(
                    f"{context}{what} of {name} is {getattr(found, what)}; "
                    f"the reference's is {getattr(values, what)}"
                )
        try:
            torch.testing.assert_close(found, values, rtol=rtol, atol=atol)
        except AssertionError as error:
            fail(f"{context}{name} differs from the reference. {error}")
