"""The engines of a run, one at a time, and the cells that each of them measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plait.bench.device_trace import DeviceTrace
from plait.bench.timeline import (
    Moment,
    decode_seconds,
    prefill_seconds,
    steady_seconds,
    total_seconds,
)
from plait.bench.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from plait.bench.offline_cells import OfflineCell

TITLES = {"plait": "plait", "vllm": "vLLM"}
# vLLM makes room for one of these ranks only.
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_MOST_TRACED = 64
"""Steps of a trace of decode or steady steps."""


@dataclass(frozen=True)
class Adapters:
    """The adapters of a run.

    Attributes
    ----------
    paths : list[str]
        Directories.
    ranks : list[int]
        Beside them.
    """

    paths: list[str] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class EngineSetting:
    """How the engines of one package are made.

    Attributes
    ----------
    package : str
        "plait" or "vllm".
    python : str
        The interpreter that has it.
    environment : Mapping[str, str]
        Variables of its process.
    keywords : Mapping[str, Any]
        Of ``EngineArgs``, but for those of LoRA.
    more : Mapping[str, Any]
        Those that the user gives; they win.
    traces : Path | None
        Folder for a trace of each cell; None: none is made.
    """

    package: str
    python: str
    environment: Mapping[str, str]
    keywords: Mapping[str, Any]
    more: Mapping[str, Any]
    traces: Path | None = None

    def all_keywords(self, ranks: Sequence[int], *, lora: bool) -> dict[str, Any]:
        """Return the keywords of the engine that serves adapters of these ranks, or none."""
        keywords = dict(self.keywords) | {"enable_lora": lora}
        if lora and self.package == "vllm":
            # It allots slots of one rank when it starts, and more or longer ones are slower.
            slots = max(len(ranks), 1)
            largest = max(ranks, default=1)
            keywords |= {
                "max_loras": slots,
                "max_cpu_loras": slots,
                "max_lora_rank": next((r for r in _VLLM_RANKS if r >= largest), largest),
            }
        return keywords | dict(self.more)


@dataclass(frozen=True)
class Repeats:
    """How often a cell is run.

    Attributes
    ----------
    warm_up : int
        Before it is measured.
    measured : int
    seed : int
        Of the prompts.
    """

    warm_up: int
    measured: int
    seed: int


@dataclass(frozen=True)
class OfflineResult:
    """What one engine gave in one cell.

    Attributes
    ----------
    cell : OfflineCell
    package : str
    versions : dict[str, str]
    seconds : list[float]
        Of each repetition: a decode or steady step, or all of a prefill or throughput cell.
    tokens : int
        What was done in that time: output tokens, of a prefill cell prompt tokens.
    steps : int | None
        Steps that a repetition is the mean of.
    trace : DeviceTrace | None
        Of a further repetition.
    """

    cell: OfflineCell
    package: str
    versions: dict[str, str]
    seconds: list[float]
    tokens: int
    steps: int | None
    trace: DeviceTrace | None = None


def measure(
    setting: EngineSetting,
    cells: Sequence[OfflineCell],
    adapters: Adapters,
    vocab_size: int,
    repeats: Repeats,
    say: Callable[[str], None],
) -> Iterator[OfflineResult]:
    """Measure cells on engines of one package: those without LoRA on one, the others on another.

    Parameters
    ----------
    setting : EngineSetting
    cells : Sequence[OfflineCell]
    adapters : Adapters
    vocab_size : int
        Prompts are drawn from it.
    repeats : Repeats
    say : Callable[[str], None]
        Is told what happens.

    Yields
    ------
    OfflineResult
        As it is measured.

    Raises
    ------
    PlaitError
        If an engine cannot be made, or fails.
    """
    for lora in (False, True):
        ours = [cell for cell in cells if cell.lora == lora]
        if not ours:
            continue
        title = TITLES[setting.package] + (", LoRA on" if lora else "")
        say(f"{title}: loading")
        count = max(cell.adapters for cell in ours)
        # The memory of the device is that of one engine, which ends with its process.
        with Worker(
            title, "engine_system", python=setting.python, environment=setting.environment
        ) as worker:
            versions = worker.call(
                "load",
                package=setting.package,
                keywords=setting.all_keywords(adapters.ranks[:count], lora=lora),
            ).result
            if count:
                worker.call("add_adapters", paths=adapters.paths[:count])
            for cell in ours:
                result = _measure_cell(
                    worker, setting, versions, cell, adapters, vocab_size, repeats
                )
                each = ", ".join(f"{1000 * seconds:.2f}" for seconds in result.seconds)
                say(f"{title}: {cell.name}: {each} ms")
                yield result


def _measure_cell(
    worker: Worker,
    setting: EngineSetting,
    versions: dict[str, str],
    cell: OfflineCell,
    adapters: Adapters,
    vocab_size: int,
    repeats: Repeats,
) -> OfflineResult:
    def call(method: str, repetition: int, **more: Any) -> Any:
        prompts = cell.prompts(repeats.seed, repetition, vocab_size)
        paths = [None if row is None else adapters.paths[row] for row in cell.rows()]
        asked = {"prompts": prompts, "adapters": paths, "output_tokens": cell.output_tokens}
        return worker.call(method, **asked, arrivals=cell.arrivals, **more).result

    seconds, steps, trace = [], None, None
    for repetition in range(-repeats.warm_up, repeats.measured):
        moments = [Moment(*values) for values in call("run", repetition)]
        if repetition >= 0:
            taken, steps = _seconds(cell, moments)
            seconds.append(taken)
    if setting.traces is not None:
        file = setting.traces / f"{cell.name.replace(':', '-')}.json"
        looked_at = call("trace", repeats.measured, file=str(file), **_traced(cell))
        trace = DeviceTrace.read(file, looked_at)
    done = {
        "D": cell.requests,
        "P": cell.requests * cell.prompt_tokens,
        "S": cell.requests,
        "T": cell.requests * cell.output_tokens,
    }
    return OfflineResult(cell, setting.package, versions, seconds, done[cell.letter], steps, trace)


def _traced(cell: OfflineCell) -> dict[str, int | None]:
    """Return which steps of a cell are traced."""
    if cell.letter == "D":
        most = min(cell.output_tokens - 1, _MOST_TRACED)
        return {"begun": cell.requests, "ended": 0, "most": most}
    if cell.letter == "S":
        return {"begun": 0, "ended": 1, "most": min(cell.output_tokens, _MOST_TRACED)}
    return {"begun": 0, "ended": 0, "most": None}


def _seconds(cell: OfflineCell, moments: Sequence[Moment]) -> tuple[float, int | None]:
    if cell.letter == "D":
        return decode_seconds(moments, cell.requests)
    if cell.letter == "S":
        return steady_seconds(moments, cell.all_requests)
    if cell.letter == "P":
        return prefill_seconds(moments, cell.requests), None
    return total_seconds(moments), None
