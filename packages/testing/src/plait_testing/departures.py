"""How a backend says that it departs from the standard tests, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from plait_kernels.errors import KernelError

if TYPE_CHECKING:
    from plait_testing.case import Case

Function = TypeVar("Function", bound=Callable[..., Any])

_ATTRIBUTE = "plait_deviation"


@dataclass(frozen=True)
class Deviation:
    """A reason; as a decorator it marks a test, as a class attribute it stands for no test."""

    reason: str

    def __call__(self, function: Function) -> Function:
        """Mark a test that replaces a standard one."""
        setattr(function, _ATTRIBUTE, self.reason)
        return function


def deviation(*, reason: str) -> Deviation:
    """Declare that a standard test is replaced or dropped; pytest's summary shows the reason.

    Parameters
    ----------
    reason : str
        Why the backend cannot pass the test as it stands.

    Raises
    ------
    KernelError
        The reason is empty.

    Examples
    --------
    >>> class TestMine(KernelConformance):  # doctest: +SKIP
    ...     backend = "mine"
    ...     test_gives_the_same_bits_twice = deviation(reason="sums with float atomics")
    ...
    ...     @deviation(reason="bfloat16 needs twice the tolerance")
    ...     def test_agrees_with_reference(self, subject): ...
    """
    _check_reason("deviation", reason)
    return Deviation(reason)


@dataclass(frozen=True)
class Narrowing:
    """Which part of the cases a class runs, and why not all.

    Attributes
    ----------
    reason : str
        Shown in pytest's summary.
    ops, dtypes, cases, buckets : tuple[str, ...]
        What is run; empty = everything. ``cases`` are names as they stand in test ids.
    large : bool
        Whether large cases are run, unless they are named.

    Raises
    ------
    KernelError
        The reason is empty.
    """

    reason: str
    ops: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    buckets: tuple[str, ...] = ()
    large: bool = True

    def __post_init__(self) -> None:
        _check_reason("Narrowing", self.reason)

    def takes_op(self, op: str) -> bool:
        """Say whether any case of an op is run."""
        return not self.ops or op in self.ops

    def takes(self, case: Case, dtype: str, bucket: str) -> bool:
        """Say whether a case is run with a dtype in a bucket."""
        if case.is_large and not self.large and case.name not in self.cases:
            return False
        asked = ((self.cases, case.name), (self.dtypes, dtype), (self.buckets, bucket))
        return all(not run or name in run for run, name in asked)


def reason_of(attribute: object) -> str | None:
    """Return the reason that a class attribute carries, None if it has none."""
    if isinstance(attribute, Deviation):
        return attribute.reason
    found = getattr(attribute, _ATTRIBUTE, None)
    return found if isinstance(found, str) else None


def _check_reason(what: str, reason: object) -> None:
    if not isinstance(reason, str) or not reason.strip():
        msg = f"{what}(reason={reason!r}): a text is needed; say why, for whoever reads the results"
        raise KernelError(msg)
