"""Hold that a class runs the standard tests, or says which it does not and why."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from plait_kernels.config import BUCKETS
from plait_kernels.ops import OPS
from plait_testing.cases import load_cases
from plait_testing.conformance import KernelConformance
from plait_testing.departures import Narrowing, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = frozenset({"backend", "device", "narrowing", "cuts_digits"})

# The test that tells whether there is anything to test.
FIRST_TEST = "test_is_registered"


def standard_tests() -> tuple[str, ...]:
    """Return the names of the standard tests."""
    return tuple(name for name in vars(KernelConformance) if name.startswith("test_"))


def objections(cls: type[KernelConformance]) -> tuple[str, ...]:
    """Say what a class does silently that it must declare."""
    return tuple(_objections(cls))


def deviations(cls: type[KernelConformance]) -> list[str]:
    """List what a class declares: ``"test_…: reason"``."""
    found = [
        f"{name}: {reason}"
        for name in standard_tests()
        if (reason := reason_of(inspect.getattr_static(cls, name))) is not None
    ]
    if cls.narrowing is not None:
        found.append(f"narrowed: {cls.narrowing.reason}")
    if cls.cuts_digits:
        found.append(f"cuts digits: {cls.cuts_digits}")
    return found


def _objections(cls: type[KernelConformance]) -> Iterator[str]:
    for name, standard in vars(KernelConformance).items():
        if name.startswith("__") or name in SETTINGS:
            continue
        attribute = inspect.getattr_static(cls, name, None)
        if attribute is standard:
            continue
        what = "overrides" if inspect.isfunction(attribute) else "drops"
        if name == FIRST_TEST:
            yield f"it {what} {name}, without which nothing is known to be tested; leave it alone"
        elif reason_of(attribute) is None:
            use = "@deviation(reason=…)" if what == "overrides" else "deviation(reason=…)"
            yield f"it {what} the standard test {name}; say why with plait_testing.{use}"
    # Pytest leaves such classes out with no more than a warning.
    if cls.__init__ is not object.__init__ or cls.__new__ is not object.__new__:
        yield "it has a constructor, for which pytest would not collect it; use fixtures"
    yield from _objections_to_settings(cls)


def _objections_to_settings(cls: type[KernelConformance]) -> Iterator[str]:
    backend = getattr(cls, "backend", None)
    if not isinstance(backend, str) or not backend:
        yield f"its attribute backend is {backend!r}; give it the name of a registered backend"
    if cls.device not in ("auto", "cpu", "cuda"):
        yield f"its attribute device is {cls.device!r}; use 'auto', 'cpu' or 'cuda'"
    if not isinstance(cls.cuts_digits, str):
        yield f"its attribute cuts_digits is {cls.cuts_digits!r}; give the reason, or leave it out"
    narrowing: object = cls.narrowing
    if isinstance(narrowing, Narrowing):
        cases = {case.name for op in OPS for case in load_cases(op).cases}
        for what, named, known in (
            ("op", narrowing.ops, set(OPS)),
            ("case", narrowing.cases, cases),
            ("bucket", narrowing.buckets, set(BUCKETS)),
        ):
            for name in sorted(set(named) - known):
                yield f"its narrowing names the unknown {what} {name!r}"
    elif narrowing is not None:
        yield f"its attribute narrowing is {narrowing!r}; use plait_testing.Narrowing(reason=…)"
