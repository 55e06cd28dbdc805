"""Results as JSON lines, one a side of a cell, and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from plait.bench.pairs import CellResult, SideResult, Spread
from plait.bench.pool import full_title, title

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

_HEADINGS = ("cell", "ours", "tokens/s", "other", "tokens/s", "ratio", "spread", "goal", "equal")
_RIGHT = frozenset({2, 4, 5, 6, 7, 8})


@dataclass(frozen=True)
class Circumstances:
    """What is the same for all results of a run.

    Attributes
    ----------
    date : str
        When the run began, ISO 8601, UTC.
    device : str
        Name of the processor.
    model : str
        File or directory name.
    threads, seed : int
    """

    date: str
    device: str
    model: str
    threads: int
    seed: int


def json_lines(result: CellResult, circumstances: Circumstances) -> Iterator[dict[str, Any]]:
    """Yield one object a side: ours first, with the ratio to the other."""
    yield _line(result, result.ours, circumstances) | {
        "goal": result.cell.goal,
        "ratio": _spread(result.ratios) if result.other else None,
        "equal_rows": result.equal_rows,
    }
    if result.other:
        absent = {"goal": None, "ratio": None, "equal_rows": None}
        yield _line(result, result.other, circumstances) | absent


def table(results: Sequence[CellResult]) -> str:
    """Return the results as text, one line a cell."""
    return columns([_HEADINGS, *(_row(result) for result in results)], _RIGHT)


def columns(rows: Sequence[Sequence[str]], right: Container[int]) -> str:
    """Align rows of equal length, the headings first; the columns in ``right`` to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            f"{text:>{width}}" if column in right else f"{text:{width}}"
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _line(result: CellResult, side: SideResult, circumstances: Circumstances) -> dict[str, Any]:
    system, cell = side.side.system, result.cell
    return {
        "cell": cell.name,
        **asdict(cell.workload),
        "adapters": side.side.adapters,
        "base_rows": side.side.rows(cell.workload.requests).count(None),
        "system": title(system),
        "dtype": system.dtype,
        "lora": system.lora,
        "versions": side.versions,
        **asdict(circumstances),
        "seconds": side.seconds,
        "tokens_per_second": _spread(side.rates),
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {**asdict(Spread.of(values)), "each": list(values)}


def _row(result: CellResult) -> tuple[str, ...]:
    ours, cell = result.ours, result.cell
    row = (cell.name, full_title(ours.side.system), _rate(ours))
    if result.other is None:
        return (*row, "", "", "", "", "", "")
    ratio = Spread.of(result.ratios)
    equal = "" if result.equal_rows is None else f"{result.equal_rows:.0%}"
    goal = "" if cell.goal is None else f"≥ {cell.goal}"
    spread = f"{ratio.min:.2f} … {ratio.max:.2f}"
    return (
        *row,
        full_title(result.other.side.system),
        _rate(result.other),
        f"{ratio.median:.2f}",
        spread,
        goal,
        equal,
    )


def _rate(side: SideResult) -> str:
    return f"{Spread.of(side.rates).median:.1f}"
