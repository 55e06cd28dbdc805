"""Tally: counts what ran for each backend, and prints it at the end of the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROPERTY: Final = "plait_conformance"
"""Name of the property of a test report that tells what was tested, as a dict."""

ANY: Final = "*"
"""In ``--kernel-require``: whichever backends there are classes for."""


@dataclass
class _Count:
    ops: set[str] = field(default_factory=set)
    cases: set[str] = field(default_factory=set)
    deviations: dict[str, None] = field(default_factory=dict)
    idle: dict[str, None] = field(default_factory=dict)
    passed: int = 0
    failed: int = 0

    def __str__(self) -> str:
        if not self.cases:
            return f"no case ran{''.join(f': {reason}' for reason in self.idle)}"
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"{_counted(len(self.ops), 'op')}, {_counted(len(self.cases), 'case')}, "
            f"{_counted(self.passed, 'test')} passed{failed}; "
            f"{_counted(len(self.deviations), 'deviation')}"
        )


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


class Tally:
    """A pytest plugin that reads test reports, also those that other processes send.

    Parameters
    ----------
    required : Sequence[str]
        Values of ``--kernel-require``.
    """

    def __init__(self, required: Sequence[str]) -> None:
        self._required = required
        self._counts: dict[tuple[str, str], _Count] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a report."""
        # Of a test that breaks before it is called there is no report of the call.
        if report.when == "call" or not report.passed:
            for name, tested in report.user_properties:
                if name == PROPERTY and isinstance(tested, dict):
                    self._add(report, tested)

    def _add(self, report: pytest.TestReport, tested: dict[str, Any]) -> None:
        count = self._counts.setdefault((tested["backend"], tested["device"]), _Count())
        count.deviations.update(dict.fromkeys(tested["deviations"]))
        if tested["idle"]:
            count.idle[tested["idle"]] = None
        if report.skipped:
            return
        count.passed += report.passed
        count.failed += report.failed
        if report.when == "call" and tested["case"]:
            count.ops.add(tested["op"])
            count.cases.add(tested["case"])

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that lacks what was required."""
        done = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if session.exitstatus in done and any(self._unmet()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print a line for each backend."""
        unmet = list(self._unmet())
        if not self._counts and not unmet:
            return
        terminalreporter.section("kernel conformance")
        for (backend, device), count in sorted(self._counts.items()):
            terminalreporter.line(f"{backend} on {device}: {count}")
            for deviation in count.deviations:
                terminalreporter.line(f"  {deviation}", yellow=True)
        for message in unmet:
            terminalreporter.line(f"ERROR: {message}", red=True)

    def _unmet(self) -> Iterator[str]:
        for name in self._required:
            counts = [
                count for (backend, _), count in self._counts.items() if name in (ANY, backend)
            ]
            if not any(count.cases for count in counts):
                whose = "any backend" if name == ANY else f"backend {name!r}"
                why = "; ".join(str(count) for count in counts) or "no such tests were collected"
                yield (
                    f"--kernel-require: no conformance case of {whose} ran ({why}); run the class "
                    "that derives from KernelConformance on a machine that the backend can use "
                    "(a name is written --kernel-require=NAME)"
                )
            elif name == ANY:
                for (backend, device), count in self._counts.items():
                    if not count.cases:
                        yield f"--kernel-require: backend {backend!r} on {device}: {count}"
