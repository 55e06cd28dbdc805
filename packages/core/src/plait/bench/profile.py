"""Where the time of a step goes: plait alone, with timers around its kernels."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from plait.bench.cells import Cell, Side, System, Workload
from plait.bench.cpu import DTYPES, RANK, circumstances
from plait.bench.options import at_least_one, at_least_zero, keywords
from plait.bench.pairs import WARM_UP_TOKENS
from plait.bench.pool import variables
from plait.bench.profile_report import json_line, profiles, table
from plait.bench.step_times import StepTimes
from plait.bench.worker import Worker
from plait.demo.model import find_demo_model
from plait_kernels.errors import InputError
from plait_models import read_config

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

HELP = "Show where the time of a step goes: kernels by part, and all that is around them."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    add = parser.add_argument
    add("--requests", type=at_least_one, default=32, help="at once (default: %(default)s)")
    add("--prompt-tokens", type=at_least_one, default=128, help="default: %(default)s")
    add("--output-tokens", type=at_least_one, default=64, help="default: %(default)s")
    add("--adapters", type=at_least_zero, default=0, help=f"random ones of rank {RANK}; default: 0")
    add("--dtype", choices=DTYPES, default=DTYPES[0], help="default: %(default)s")
    add("--threads", type=at_least_one, default=2, help="default: %(default)s")
    add("--seed", type=int, default=0, help="of the prompts (default: %(default)s)")
    add("--model", type=Path, help="checkpoint or .gguf file (default: the demo model)")
    add("--output", type=Path, default=Path("profile.jsonl"), help="default: %(default)s")
    add("--llm", type=keywords, default={}, metavar="JSON", help="more keywords of plait's LLM")


def run(options: argparse.Namespace) -> None:
    """Run the requests, write a JSON line for decode and one for prefill, and print both.

    Raises
    ------
    PlaitError
        If an option is wrong, or the run fails.
    """
    model = (options.model or find_demo_model()).resolve()
    workload = Workload(options.requests, options.prompt_tokens, options.output_tokens)
    if options.adapters > workload.requests:
        text = (
            f"--adapters {options.adapters} is more than --requests {workload.requests}, of which "
            "each runs one adapter; use at most as many"
        )
        raise InputError(text)
    system = System("plait", options.dtype, lora=options.adapters > 0)
    cell = Cell("profile", workload, Side(system, options.adapters), None, None, 1)
    around = circumstances(options, model)
    with tempfile.TemporaryDirectory(prefix="plait-profile-") as folder:
        paths = _make_adapters(model, Path(folder), options)
        steps, versions, timer_seconds = _measure(cell, model, paths, options)
    rows = f"{workload.requests} x {workload.prompt_tokens} in, {workload.output_tokens} out"
    seconds = sum(step.seconds for step in steps)
    rate = workload.requests * workload.output_tokens / seconds
    print(f"{around.device}, {options.threads} threads, {model.name}, {options.dtype}")
    print(f"{rows}, {options.adapters} adapters: {seconds:.2f} s, {rate:.1f} output tokens/s")
    with options.output.open("w", encoding="utf-8") as file:
        for profile in profiles(steps, workload.requests):
            print(f"\n{table(profile, timer_seconds)}")
            line = {
                **asdict(workload),
                "adapters": options.adapters,
                "dtype": options.dtype,
                "versions": versions,
                **asdict(around),
                "output_tokens_per_second": rate,
                **json_line(profile, timer_seconds),
            }
            file.write(json.dumps(line) + "\n")


def _make_adapters(model: Path, folder: Path, options: argparse.Namespace) -> list[str]:
    names = [f"adapter-{number}" for number in range(options.adapters)]
    if names:
        environment = variables(options.threads)
        with Worker("the files", "transformers_system", environment=environment) as worker:
            worker.call(
                "make_adapters", model=str(model), folder=str(folder), names=names, rank=RANK
            )
    return [str(folder / name) for name in names]


def _measure(
    cell: Cell, model: Path, paths: Sequence[str], options: argparse.Namespace
) -> tuple[list[StepTimes], dict[str, str], float]:
    """Return the times of all steps, versions, and what a timer costs."""
    workload, system = cell.workload, cell.ours.system
    vocab_size = read_config(str(model)).vocab_size
    adapters = [
        None if number is None else paths[number] for number in cell.ours.rows(workload.requests)
    ]
    llm = {
        "dtype": system.dtype,
        "enable_lora": system.lora,
        "max_model_len": workload.prompt_tokens + workload.output_tokens,
        "max_num_seqs": workload.requests,
    }
    environment = variables(options.threads)
    with Worker("plait, timed", "profile_system", environment=environment) as worker:
        versions = worker.call(
            "load", model=str(model), threads=options.threads, options=llm | options.llm
        ).result
        # The first run loads the adapters; its prompts are others, so that none is cached.
        for repetition, tokens in enumerate((WARM_UP_TOKENS, workload.output_tokens)):
            prompts = cell.prompts(options.seed, repetition, vocab_size)
            print(f"run {repetition + 1} of 2: {tokens} tokens a row", file=sys.stderr, flush=True)
            steps = worker.call(
                "generate", prompts=prompts, adapters=adapters, output_tokens=tokens
            ).result
        timer_seconds = worker.call("timer_seconds").result
    return [StepTimes.from_json(step) for step in steps], versions, timer_seconds
