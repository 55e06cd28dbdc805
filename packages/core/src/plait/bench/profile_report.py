"""Where the time of a step goes: from the times of steps to a table and JSON lines."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plait.bench.report import columns
from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from plait.bench.step_times import StepTimes

_ORDER = (
    "linears",
    "head",
    "attention",
    "attention plan",
    "kv_write",
    "norms",
    "rotary",
    "activation",
    "lora shrink",
    "lora expand",
    "sampling",
)
ELSE = "everything else"
IN_RUNNER = "  in the runner"
AROUND = "  around it"
_HEADINGS = ("part", "ms", "share", "calls a step")


@dataclass(frozen=True)
class Line:
    """A part of a step.

    Attributes
    ----------
    part : str
    seconds : float
        Median or sum over steps.
    calls : float | None
        Of kernels, a step; None of what is no kernel.
    """

    part: str
    seconds: float
    calls: float | None


@dataclass(frozen=True)
class Profile:
    """What steps of one kind took.

    Attributes
    ----------
    kind : str
        "decode": medians over the steps in which every request runs one token;
        "prefill": sums over the steps that run a prompt or load an adapter.
    steps, rows, tokens : int
        Steps, and what they ran: rows and tokens of one step ("decode"), tokens of all
        ("prefill"; rows then is the most of a step).
    seconds : float
    lines : tuple[Line, ...]
        Kernels, then ``ELSE``, and then what ``ELSE`` consists of. Without the last, sums add up
        to ``seconds``; medians do so but for the spread of the steps.
    """

    kind: str
    steps: int
    rows: int
    tokens: int
    seconds: float
    lines: tuple[Line, ...]

    @property
    def timers(self) -> float:
        """Timed calls a step."""
        return sum(line.calls for line in self.lines if line.calls is not None)

    @property
    def rate(self) -> float:
        """Tokens run a second."""
        return self.tokens / self.seconds


def profiles(steps: Sequence[StepTimes], requests: int) -> list[Profile]:
    """Summarise the steps of a run: decode, then prefill if there are such steps.

    Raises
    ------
    InputError
        If there is no decode step in which all requests run.
    """
    decode = [step for step in steps if step.is_decode and step.rows == requests]
    prefill = [step for step in steps if not step.is_decode]
    if not decode:
        text = (
            f"no step of this run decoded all {requests} requests: the first ended, or were "
            "preempted, before the last had run its prompt; use more --output-tokens, fewer "
            "--requests, or more memory (kv_cache_memory_bytes in --llm)"
        )
        raise InputError(text)
    found = [_profile("decode", decode, requests, statistics.median)]
    if prefill:
        found.append(_profile("prefill", prefill, sum(step.tokens for step in prefill), sum))
    return found


def json_line(profile: Profile, timer_seconds: float) -> dict[str, Any]:
    """Return a profile as what JSON can say; seconds."""
    return {
        "kind": profile.kind,
        "over_steps": "median" if profile.kind == "decode" else "sum",
        "steps": profile.steps,
        "rows": profile.rows,
        "tokens": profile.tokens,
        "seconds": profile.seconds,
        "tokens_per_second": profile.rate,
        "parts": {
            line.part.strip(): {
                "seconds": line.seconds,
                "share": line.seconds / profile.seconds,
                "calls_a_step": line.calls,
            }
            for line in profile.lines
        },
        "timed_calls_a_step": profile.timers,
        "seconds_of_a_timer": timer_seconds,
    }


def table(profile: Profile, timer_seconds: float) -> str:
    """Return a profile as text."""
    what = (
        f"median of {profile.steps} steps of {profile.rows} rows"
        if profile.kind == "decode"
        else f"sum of {profile.steps} steps, {profile.tokens} tokens"
    )
    rows = [_HEADINGS, *(_row(line, profile.seconds) for line in profile.lines)]
    rows.append(_row(Line("total", profile.seconds, None), profile.seconds))
    return (
        f"{profile.kind}, {what}: {profile.rate:.1f} tokens/s\n\n{columns(rows, {1, 2, 3})}\n\n"
        f"{profile.timers:.0f} timers a step, two readings of the clock each: about "
        f"{profile.timers * timer_seconds * 1e3:.2f} ms of a step."
    )


def _profile(
    kind: str, steps: Sequence[StepTimes], tokens: int, over: Callable[[Iterable[float]], float]
) -> Profile:
    called = {part for step in steps for part in step.parts}
    lines = []
    for part in (*(p for p in _ORDER if p in called), *sorted(called.difference(_ORDER))):
        times = [step.parts[part] for step in steps if part in step.parts]
        absent = [0.0] * (len(steps) - len(times))
        seconds = over([time.seconds for time in times] + absent)
        lines.append(Line(part, seconds, sum(time.calls for time in times) / len(steps)))
    rest = {
        ELSE: (step.seconds - step.kernel_seconds for step in steps),
        IN_RUNNER: (step.runner_seconds - step.kernel_seconds for step in steps),
        AROUND: (step.seconds - step.runner_seconds for step in steps),
    }
    lines += [Line(part, over(seconds), None) for part, seconds in rest.items()]
    rows = max(step.rows for step in steps)
    return Profile(
        kind, len(steps), rows, tokens, over(step.seconds for step in steps), tuple(lines)
    )


def _row(line: Line, total: float) -> tuple[str, ...]:
    calls = "" if line.calls is None else f"{line.calls:g}"
    return (line.part, f"{line.seconds * 1e3:.2f}", f"{line.seconds / total:.1%}", calls)
