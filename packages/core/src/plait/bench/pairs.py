"""Measure a cell: both sides in turns on the same prompts, so that a drifting machine hits both."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from plait_kernels.errors import PlaitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from plait.bench.cells import Cell, Side, System
    from plait.bench.worker import Worker

WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class Spread:
    """Median and extremes."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise at least one value."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


@dataclass(frozen=True)
class SideResult:
    """What one side gave.

    Attributes
    ----------
    side : Side
    versions : dict[str, str]
        Of the distributions it is made of.
    seconds : list[float]
        Of each repetition.
    tokens : int
        Output tokens of a repetition, all rows.
    """

    side: Side
    versions: dict[str, str]
    seconds: list[float]
    tokens: int

    @property
    def rates(self) -> list[float]:
        """Output tokens a second of each repetition, the prompts' time included."""
        return [self.tokens / seconds for seconds in self.seconds]


@dataclass(frozen=True)
class CellResult:
    """A measured cell.

    Attributes
    ----------
    cell : Cell
    ours : SideResult
    other : SideResult | None
    equal_rows : float | None
        Share of rows with the same tokens on both sides; None where they need not have.
    """

    cell: Cell
    ours: SideResult
    other: SideResult | None
    equal_rows: float | None

    @property
    def ratios(self) -> list[float]:
        """Our rate by the other's, one a pair; empty without another."""
        if self.other is None:
            return []
        pairs = zip(self.ours.rates, self.other.rates, strict=True)
        return [ours / other for ours, other in pairs]


class Loaded(Protocol):
    """Where loaded systems come from."""

    def get(self, system: System) -> tuple[Worker, dict[str, str]]:
        """Return a loaded system and the versions of what it is made of."""


def measure(
    cell: Cell,
    loaded: Loaded,
    prompts: Callable[[int], list[list[int]]],
    adapters: Sequence[str],
    say: Callable[[str], None],
) -> CellResult:
    """Run a cell.

    Parameters
    ----------
    cell : Cell
    loaded : Loaded
    prompts : Callable[[int], list[list[int]]]
        Makes those of a repetition; repetition 0 is the warm-up.
    adapters : Sequence[str]
        Directories, at least as many as the cell runs.
    say : Callable[[str], None]
        Is told of the progress.

    Raises
    ------
    PlaitError
        If a system fails, or gives another number of tokens than was asked for.
    """
    sides = [cell.ours] if cell.other is None else [cell.ours, cell.other]
    results = []
    for side in sides:
        worker, versions = loaded.get(side.system)
        # Loads what the side's rows run, which is not what is measured.
        _run(cell, side, worker, prompts(0), adapters, WARM_UP_TOKENS)
        tokens = cell.workload.requests * cell.workload.output_tokens
        results.append((worker, SideResult(side, versions, [], tokens)))
    equal = 0
    for pair in range(1, cell.pairs + 1):
        asked = prompts(pair)
        answers = []
        for worker, result in results:
            rows, seconds = _run(
                cell, result.side, worker, asked, adapters, cell.workload.output_tokens
            )
            result.seconds.append(seconds)
            answers.append(rows)
        if cell.same_tokens:
            equal += sum(ours == other for ours, other in zip(*answers, strict=True))
        rates = " / ".join(f"{result.rates[-1]:.1f}" for _, result in results)
        say(f"  pair {pair} of {cell.pairs}: {rates} tokens/s")
    other = results[1][1] if cell.other is not None else None
    share = equal / (cell.pairs * cell.workload.requests) if cell.same_tokens else None
    return CellResult(cell, results[0][1], other, share)


def _run(
    cell: Cell,
    side: Side,
    worker: Worker,
    prompts: list[list[int]],
    adapters: Sequence[str],
    output_tokens: int,
) -> tuple[list[list[int]], float]:
    rows = side.rows(cell.workload.requests)
    answer = worker.call(
        "generate",
        prompts=prompts,
        adapters=[None if number is None else adapters[number] for number in rows],
        output_tokens=output_tokens,
    )
    lengths = [len(row) for row in answer.result]
    if lengths != [output_tokens] * len(rows):
        text = (
            f"cell {cell.name!r}: {worker.name} gave rows of {lengths} tokens; "
            f"{len(rows)} rows of {output_tokens} were asked for, and a rate over other work says "
            "nothing. Look for an end-of-sequence token or a length limit that it obeys"
        )
        raise PlaitError(text)
    return answer.result, answer.seconds
