"""A kernel agrees with the op's reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from plait_testing.failure import fail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_testing.accuracy import Expected
    from plait_testing.subject import Subject


def check_agreement(subject: Subject) -> None:
    """Compare the results of one call, within what the op's accuracy allows."""
    compare(subject, subject.run(subject.make(), subject.arguments()), subject.expected())


def compare(
    subject: Subject, got: Mapping[str, Any], expected: Mapping[str, Expected], context: str = ""
) -> None:
    """Fail unless every result has the reference's shape, dtype and device, and its values.

    Parameters
    ----------
    subject : Subject
    got : Mapping[str, Tensor]
        Results by name.
    expected : Mapping[str, Expected]
    context : str
        Goes before the message.
    """
    if got.keys() != expected.keys():
        fail(
            f"{context}the call brought {', '.join(got) or 'nothing'}; "
            f"the contract says {', '.join(expected)}"
        )
    for name, values in expected.items():
        found = got[name]
        if not isinstance(found, torch.Tensor):
            fail(f"{context}{name} is {type(found).__name__}, not a Tensor")
        for what, right in (
            ("shape", values.exact.shape),
            ("dtype", values.dtype),
            ("device", subject.torch_device),
        ):
            if getattr(found, what) != right:
                fail(
                    f"{context}{what} of {name} is {getattr(found, what)}; "
                    f"the reference's is {right}"
                )
        objection = values.objection(found, is_cut=subject.is_cut)
        if objection:
            fail(f"{context}{name} differs from the reference: {objection}")
