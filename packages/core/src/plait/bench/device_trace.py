"""What a GPU did during some steps: its kernels by name, and how long it did nothing."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plait.bench.report import columns
from plait_kernels.errors import PlaitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_ON_DEVICE = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
"""Categories of the events of a trace that are a device's work."""

_HEADINGS = ("kernel", "µs a step", "share", "calls a step")
_MOST_LINES = 25
_NAME_WIDTH = 72


@dataclass(frozen=True)
class Work:
    """A kernel, a copy or a fill on the device; seconds on the trace's clock."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class KernelTime:
    """All calls of a kernel.

    Attributes
    ----------
    name : str
    calls : int
    seconds : float
        Summed; kernels that run beside each other each count in full.
    """

    name: str
    calls: int
    seconds: float


@dataclass(frozen=True)
class DeviceTrace:
    """What the device did from its first to its last work of some steps.

    Attributes
    ----------
    steps : int
    seconds : float
        From the start of the first to the end of the last.
    idle_seconds : float
        Of these, those in which nothing ran. While it is traced a kernel takes a little longer to
        start, so that without a tracer the device is idle for no longer.
    longest_idle_seconds : float
        Of these, the longest at a time.
    kernels : tuple[KernelTime, ...]
        Those that took longest first.
    """

    steps: int
    seconds: float
    idle_seconds: float
    longest_idle_seconds: float
    kernels: tuple[KernelTime, ...]

    @classmethod
    def of(cls, works: Iterable[Work], steps: int) -> DeviceTrace:
        """Sum up.

        Raises
        ------
        PlaitError
            If there is no work.
        """
        ordered = sorted(works, key=lambda work: work.start)
        if not ordered:
            text = (
                "the trace has no work of a GPU: torch's profiler could not look at the device; "
                "see what it says with KINETO_LOG_LEVEL=0, or leave --trace out"
            )
            raise PlaitError(text)
        by_name: dict[str, list[float]] = defaultdict(list)
        idle, longest, until = 0.0, 0.0, ordered[0].start
        for work in ordered:
            by_name[work.name].append(work.end - work.start)
            gap = max(0.0, work.start - until)
            idle, longest = idle + gap, max(longest, gap)
            until = max(until, work.end)
        kernels = [KernelTime(name, len(each), sum(each)) for name, each in by_name.items()]
        kernels.sort(key=lambda kernel: kernel.seconds, reverse=True)
        return cls(steps, until - ordered[0].start, idle, longest, tuple(kernels))

    @classmethod
    def read(cls, file: Path, steps: int) -> DeviceTrace:
        """Sum up a trace in Chrome's format, as torch's profiler writes it.

        Raises
        ------
        PlaitError
            If it has no work of a GPU.
        """
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
        return cls.of((_work(event) for event in events if event.get("cat") in _ON_DEVICE), steps)

    @property
    def idle(self) -> float:
        """The share of the time in which nothing ran."""
        return self.idle_seconds / self.seconds

    def json(self) -> dict[str, Any]:
        """Return it as what JSON can say."""
        return {
            "steps": self.steps,
            "seconds": self.seconds,
            "idle_seconds": self.idle_seconds,
            "idle": self.idle,
            "longest_idle_seconds": self.longest_idle_seconds,
            "kernels": {
                kernel.name: {"calls": kernel.calls, "seconds": kernel.seconds}
                for kernel in self.kernels
            },
        }

    def table(self) -> str:
        """Return it as text; what takes little is summed up."""
        lines = [self._row(kernel) for kernel in _longest(self.kernels)]
        return (
            f"{self.steps} steps of {1e3 * self.seconds / self.steps:.3f} ms, the device idle for "
            f"{self.idle:.1%}, at most {1e3 * self.longest_idle_seconds:.3f} ms at a time\n\n"
            f"{columns([_HEADINGS, *lines], {1, 2, 3})}"
        )

    def _row(self, kernel: KernelTime) -> tuple[str, ...]:
        name = kernel.name
        return (
            name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…",
            f"{1e6 * kernel.seconds / self.steps:.1f}",
            f"{kernel.seconds / self.seconds:.1%}",
            f"{kernel.calls / self.steps:.4g}",
        )


def _work(event: dict[str, Any]) -> Work:
    start = event["ts"] / 1e6
    return Work(event["name"], start, start + event["dur"] / 1e6)


def _longest(kernels: Sequence[KernelTime]) -> list[KernelTime]:
    shown, rest = list(kernels[:_MOST_LINES]), kernels[_MOST_LINES:]
    if rest:
        calls, seconds = sum(k.calls for k in rest), sum(k.seconds for k in rest)
        shown.append(KernelTime(f"({len(rest)} others)", calls, seconds))
    return shown
