"""A kernel gives the same bits for the same input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait_testing.failure import fail
from plait_testing.tensors import bits

if TYPE_CHECKING:
    from plait_testing.subject import Subject


def check_repeats(subject: Subject) -> None:
    """Call twice, then once more with an implementation that is made anew."""
    implementation = subject.make()
    first = subject.run(implementation, subject.arguments())
    for which, again in (("second call", implementation), ("new implementation", subject.make())):
        for name, values in subject.run(again, subject.arguments()).items():
            different = int((bits(values) != bits(first[name])).sum())
            if different:
                fail(
                    f"{different} of {values.numel()} elements of {name} have other bits at the "
                    f"{which} with equal arguments; sum in an order that does not change"
                )
