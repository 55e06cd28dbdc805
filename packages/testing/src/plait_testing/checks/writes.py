"""A kernel writes all of its outputs and nothing else."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.deterministic

from plait_testing.failure import fail
from plait_testing.guarded import GuardedMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plait_testing.subject import Subject


def check_writes(subject: Subject) -> None:
    """Call once with guarded arguments, while fresh memory is poisoned."""
    op_cases = subject.op_cases
    guarded = GuardedMemory(subject.arguments(), op_cases.names)
    arguments = guarded.arguments
    # Taken before the call, which might change what they are derived from.
    writable = op_cases.writable(arguments)
    implementation = subject.make()
    with poisoned_memory():
        output = subject.call(implementation, subject.prepare(implementation, arguments))
    # Where NaN is right, the comparison with the reference says enough.
    looks_for_poison = not subject.case.has_nan
    damage = "; ".join(guarded.damage(writable))
    if damage:
        fail(f"it wrote what the contract does not let it write, in {damage}")
    if output is not None:
        if guarded.aliases(output):
            fail("the output lies in the memory of an argument; it must be new memory")
        if op_cases.is_contiguous and not output.is_contiguous():
            fail(f"the output must be contiguous; its strides are {output.stride()}")
        if looks_for_poison:
            _check_no_poison(op_cases.specified(arguments, output), "the output")
    for view in writable if looks_for_poison else ():
        _check_no_poison(view, "an argument that is changed in place")


def _check_no_poison(values: torch.Tensor, name: str) -> None:
    if values.is_floating_point():
        poisoned = values.isnan()
    else:
        poisoned = values == torch.iinfo(values.dtype).max
    count = int(poisoned.sum())
    if count:
        fail(
            f"{count} of {values.numel()} elements of {name} hold what fresh memory held: they "
            "were not written, or were computed from memory that nobody wrote or that lies "
            "outside the arguments"
        )


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Let torch fill fresh memory: with NaN, or the largest number of an integer dtype."""
    # Torch does this in deterministic mode only; what else that mode does is of no interest.
    enabled = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fills = settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=only_warns)
        settings.fill_uninitialized_memory = fills
