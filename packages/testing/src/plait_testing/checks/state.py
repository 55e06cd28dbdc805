"""What a kernel does depends on the arguments of the call, not on other calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait_testing.calls import Calls

if TYPE_CHECKING:
    from plait_testing.subject import Subject


def check_calls(subject: Subject) -> None:
    """Call one implementation many times, as the op's cases say, and look at every result."""
    calls = Calls(subject)
    subject.op_cases.calls(calls)
    calls.finish()
