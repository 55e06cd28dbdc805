"""The engines of a run, one at a time, and the cells that each of them measures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plait.bench.timeline import Moment, decode_seconds, prefill_seconds, total_seconds
from plait.bench.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from plait.bench.offline_cells import OfflineCell

TITLES = {"plait": "plait", "vllm": "vLLM"}
# vLLM makes room for one of these ranks only.
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


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
    """

    package: str
    python: str
    environment: Mapping[str, str]
    keywords: Mapping[str, Any]
    more: Mapping[str, Any]

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
        Of each repetition: a decode step, or all of a prefill or throughput cell.
    tokens : int
        What was done in that time: output tokens, of a prefill cell prompt tokens.
    steps : int | None
        Decode steps that a repetition is the mean of.
    """

    cell: OfflineCell
    package: str
    versions: dict[str, str]
    seconds: list[float]
    tokens: int
    steps: int | None


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
                    worker, setting.package, versions, cell, adapters, vocab_size, repeats
                )
                each = ", ".join(f"{1000 * seconds:.2f}" for seconds in result.seconds)
                say(f"{title}: {cell.name}: {each} ms")
                yield result


def _measure_cell(
    worker: Worker,
    package: str,
    versions: dict[str, str],
    cell: OfflineCell,
    adapters: Adapters,
    vocab_size: int,
    repeats: Repeats,
) -> OfflineResult:
    paths = [None if row is None else adapters.paths[row] for row in cell.rows()]
    seconds, steps = [], None
    for repetition in range(-repeats.warm_up, repeats.measured):
        prompts = cell.prompts(repeats.seed, repetition, vocab_size)
        answer = worker.call(
            "run", prompts=prompts, adapters=paths, output_tokens=cell.output_tokens
        )
        if repetition >= 0:
            taken, steps = _seconds(cell, [Moment(*values) for values in answer.result])
            seconds.append(taken)
    done = {
        "D": cell.requests,
        "P": cell.requests * cell.prompt_tokens,
        "T": cell.requests * cell.output_tokens,
    }
    return OfflineResult(cell, package, versions, seconds, done[cell.letter], steps)


def _seconds(cell: OfflineCell, moments: Sequence[Moment]) -> tuple[float, int | None]:
    if cell.letter == "D":
        return decode_seconds(moments, cell.requests)
    if cell.letter == "P":
        return prefill_seconds(moments, cell.requests), None
    return total_seconds(moments), None
