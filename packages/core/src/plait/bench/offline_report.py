"""Results of an offline engine as JSON lines and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from plait.bench.offline_engines import TITLES, OfflineResult
from plait.bench.pairs import Spread
from plait.bench.report import columns
from plait.bench.roofline import DeviceRates, ModelCosts, work

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEADINGS = ("cell", "system", "ms", "spread", "roofline", "ms / roofline", "tokens/s", "/ plait")
_RIGHT = frozenset({2, 3, 4, 5, 6, 7})


@dataclass(frozen=True)
class OfflineCircumstances:
    """What is the same for all results of a run.

    Attributes
    ----------
    date : str
        When the run began, ISO 8601, UTC.
    device : str
        Name of the GPU or the processor.
    model, dtype : str
    max_model_len, max_num_seqs, max_num_batched_tokens : int
        Of every engine.
    enforce_eager : bool
    kernels : str | None
        What was asked for of plait.
    ranks : list[int]
        Of the adapters; they recur.
    target_modules : list[str]
    seed : int
    """

    date: str
    device: str
    model: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    enforce_eager: bool
    kernels: str | None
    ranks: list[int]
    target_modules: list[str]
    seed: int


@dataclass(frozen=True)
class Report:
    """Turns results into text.

    Attributes
    ----------
    around : OfflineCircumstances
    rates : DeviceRates
    costs : ModelCosts
    """

    around: OfflineCircumstances
    rates: DeviceRates
    costs: ModelCosts

    def json_line(self, result: OfflineResult, others: Sequence[OfflineResult]) -> dict[str, Any]:
        """Return one result, with the ratio to plait's among ``others``."""
        cell, spread = result.cell, Spread.of(result.seconds)
        least = self._work(result)
        floor = least.seconds(self.rates)
        return {
            "cell": cell.name,
            "kind": cell.kind,
            "requests": cell.requests,
            "prompt_tokens": cell.prompt_tokens,
            "output_tokens": cell.output_tokens,
            "adapters": cell.adapters,
            "lora": cell.lora,
            "system": TITLES[result.package],
            "seconds": {**asdict(spread), "each": result.seconds},
            "steps": result.steps,
            "tokens_per_second": result.tokens / spread.median,
            "roofline": {**asdict(least), "seconds": floor},
            "of_roofline": spread.median / floor,
            "of_plait": _of_plait(result, others),
            "trace": None if result.trace is None else result.trace.json(),
            "versions": result.versions,
            **asdict(self.around),
            "measured": asdict(self.rates),
        }

    def table(self, results: Sequence[OfflineResult]) -> str:
        """Return all results, one line each, those of a cell together."""
        names = list(dict.fromkeys(result.cell.name for result in results))
        ordered = sorted(results, key=lambda result: names.index(result.cell.name))
        return columns([_HEADINGS, *(self._row(result, results) for result in ordered)], _RIGHT)

    def traces(self, results: Sequence[OfflineResult]) -> list[str]:
        """Return what the device did in each result that was traced."""
        return [
            f"{result.cell.name}: {result.trace.table()}"
            for result in results
            if result.trace is not None
        ]

    def heading(self) -> str:
        """Say what was measured, and on what."""
        around, rates = self.around, self.rates
        modes = ", enforce_eager" if around.enforce_eager else ""
        return (
            f"{around.device}: {rates.bytes_per_second / 1e9:.0f} GB/s, "
            f"{rates.flops_per_second / 1e12:.2f} TFLOP/s\n"
            f"{around.model}, {around.dtype}, max_num_seqs {around.max_num_seqs}, "
            f"max_num_batched_tokens {around.max_num_batched_tokens}, max_model_len "
            f"{around.max_model_len}, no prefix cache{modes}\n"
            f"adapters of rank {', '.join(map(str, around.ranks))} on "
            f"{', '.join(around.target_modules)}"
        )

    def _work(self, result: OfflineResult) -> Any:
        return work(
            result.cell,
            self.costs,
            max_num_seqs=self.around.max_num_seqs,
            max_num_batched_tokens=self.around.max_num_batched_tokens,
        )

    def _row(self, result: OfflineResult, others: Sequence[OfflineResult]) -> tuple[str, ...]:
        spread = Spread.of(result.seconds)
        floor = self._work(result).seconds(self.rates)
        of_plait = _of_plait(result, others)
        return (
            result.cell.name,
            TITLES[result.package],
            _milliseconds(spread.median),
            f"{_milliseconds(spread.min)} … {_milliseconds(spread.max)}",
            _milliseconds(floor),
            f"{spread.median / floor:.2f}",
            f"{result.tokens / spread.median:.0f}",
            "" if of_plait is None else f"{of_plait:.2f}",
        )


def _of_plait(result: OfflineResult, others: Sequence[OfflineResult]) -> float | None:
    """Return how many times plait's time the result took; None of plait itself."""
    for other in others:
        if other.cell == result.cell and other.package == "plait" != result.package:
            return Spread.of(result.seconds).median / Spread.of(other.seconds).median
    return None


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g}" if seconds < 0.001 else f"{1000 * seconds:.2f}"
