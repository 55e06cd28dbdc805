"""The calls of one implementation by which most ops are tried. No torch is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait_testing.calls import Calls

MANY_TIMES = 130
"""Calls after which a kernel that counts them, or takes outputs in turn, has shown it."""

REPEATS = 3
"""Calls with the same shapes and other contents, one after the other."""


def usual_calls(calls: Calls) -> None:
    """Call with other sizes, other contents, in the same memory, and beside a twin."""
    if calls.subject.case.is_large:
        every_size(calls)
        return
    two_at_a_time(calls)
    beside_a_twin(calls)
    in_the_same_memory(calls)
    in_memory_that_was_freed(calls)
    calls.call("with the arguments of the first call", calls.make())


def every_size(calls: Calls) -> None:
    """Call with every variant, one by one."""
    is_kept = calls.subject.case.keeps_outputs
    for variant in range(calls.variants):
        calls.call(f"with {calls.describe(variant)}", calls.make(variant), is_kept=is_kept)


def two_at_a_time(calls: Calls) -> None:
    """Begin two calls before the first of them is finished, for every two variants."""
    for variant in range(calls.variants):
        other = (variant + 1) % calls.variants
        calls.call(
            "begun before another was finished",
            calls.make(variant, 1),
            calls.make(other, 2),
            is_reversed=variant % 2 == 1,
        )


def beside_a_twin(calls: Calls) -> None:
    """Call another implementation that was made for the same config, in turn."""
    twin = calls.subject.make()
    calls.call("the first of a twin", calls.make(0, 3), by=twin)
    calls.call("after the call of a twin", calls.make(0, 4))
    calls.call("the second of a twin", calls.make(0, 5), by=twin)


def in_the_same_memory(calls: Calls) -> None:
    """Call with the same tensors and with others in their place, always with other contents."""
    from plait_testing.calls import other_views, refill

    arguments = calls.make()
    calls.call("in memory that will be used again", arguments)
    prepared = calls.prepare(arguments)
    for further in range(6, 6 + REPEATS):
        refill(arguments, calls.make(0, further), calls.subject.op_cases)
        # What was prepared is made of what keeps its contents, and of the arguments themselves.
        calls.call("after its arguments got other contents", arguments, prepared=prepared)
        arguments = other_views(arguments)
        prepared = calls.prepare(arguments)


def in_memory_that_was_freed(calls: Calls) -> None:
    """Call with arguments that may lie, and whose objects may be, where former ones were."""
    for further in range(10, 10 + REPEATS):
        calls.call("after the arguments were freed", calls.make(0, further), is_kept=False)


def of_any_size(**sizes: Any) -> tuple[dict[str, Any], ...]:
    """List variants in which one argument of the generator has one value after another."""
    ((name, values),) = sizes.items()
    return tuple({name: value} for value in values)
