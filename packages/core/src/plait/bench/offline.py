"""The benchmark of an offline engine: decode, prefill, throughput, beside the device's roofline."""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from plait.bench.linears import LINEARS, check_targets
from plait.bench.machine import processor_name
from plait.bench.offline_cells import DEFAULT_CELLS, check_cells, parse_cells
from plait.bench.offline_engines import Adapters, EngineSetting, OfflineResult, Repeats, measure
from plait.bench.offline_report import OfflineCircumstances, Report
from plait.bench.options import (
    ListAction,
    at_least_one,
    at_least_zero,
    keywords,
    share,
    variable,
)
from plait.bench.pool import OFFLINE, variables
from plait.bench.random_adapters import make_folder, write_adapters
from plait.bench.roofline import DeviceRates, ModelCosts
from plait.bench.shapes import SHAPES, write_shape
from plait.bench.worker import Worker
from plait_kernels.errors import InputError
from plait_models import read_config

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from plait.bench.offline_cells import OfflineCell
    from plait_models.config import ModelConfig

HELP: Mapping[str, str] = {
    "decode": "Measure decode steps of the offline engine.",
    "prefill": "Measure the time to the first tokens of the offline engine.",
    "steady": "Measure steps of the offline engine while requests come and go.",
    "throughput": "Measure requests that come all at once to the offline engine.",
}
EPILOG = (
    "A cell is KIND:REQUESTS:ADAPTERS. KIND: D (decode), P (prefill), S (steady), T (throughput), "
    "whatever the command; ADAPTERS: distinct ones, 0 = an engine without LoRA, idle = one with "
    "LoRA and no request that uses it."
)
_LEAST_MODEL_LEN = 1024
_DTYPES = ("bfloat16", "float16", "float32")


def add_options(parser: argparse.ArgumentParser, command: str) -> None:
    """Declare the options of a command."""
    parser.epilog = EPILOG
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", type=Path, help="checkpoint or .gguf file")
    model.add_argument("--shape", choices=SHAPES, help="a model of this shape with random weights")
    add = parser.add_argument
    cells = DEFAULT_CELLS[command]
    listed: dict[str, Any] = {"action": ListAction}
    add("--cells", **listed, default=[cells], metavar="CELL,…", help=f"default: {cells}")
    add("--prompt-tokens", type=at_least_one, help="default: 128, of T 256")
    add("--output-tokens", type=at_least_one, help="of D: decode steps (default: 128)")
    add("--repeats", type=at_least_one, default=3, help="default: %(default)s")
    add("--warmup", type=at_least_zero, default=1, help="runs before (default: %(default)s)")
    ranks = "of adapters in turn (default: 16)"
    add("--ranks", **listed, item=at_least_one, default=[16], metavar="RANK,…", help=ranks)
    targets = f"default: {','.join(LINEARS)}"
    add("--target-modules", **listed, default=list(LINEARS), metavar="NAME,…", help=targets)
    add("--dtype", choices=_DTYPES, default=_DTYPES[0], help="default: %(default)s")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    add("--max-num-seqs", type=at_least_one, default=256, help="default: %(default)s")
    add("--max-num-batched-tokens", type=at_least_one, default=8192, help="default: %(default)s")
    add("--max-model-len", type=at_least_one, help="default: 1024, or what the cells need")
    add("--gpu-memory-utilization", type=share, help="default: that of each engine")
    add("--enforce-eager", action="store_true", help="capture no graphs")
    add("--kernels", help="of plait, lora=triton;*=torch for one")
    add("--threads", type=at_least_one, help="on a CPU (default: those of torch)")
    add("--seed", type=int, default=0, help="of prompts and adapters (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="gets a JSON line a result")
    traced = "gets a trace of each cell on a GPU: what plait's kernels take, when it is idle"
    add("--trace", type=Path, metavar="FOLDER", help=traced)
    add("--llm", type=keywords, default={}, metavar="JSON", help="more of plait's EngineArgs")
    add("--peer", choices=("none", "vllm"), default="none", help="default: %(default)s")
    add("--peer-python", metavar="PATH", help="Python of an environment with vLLM")
    add("--peer-llm", type=keywords, default={}, metavar="JSON", help="more of vLLM's EngineArgs")
    add("--peer-env", nargs="+", type=variable, default=(), metavar="NAME=VALUE", help="for vLLM")


def run(options: argparse.Namespace) -> None:
    """Measure, write JSON lines as results come, and print a table of all in the end.

    Raises
    ------
    PlaitError
        If an option is wrong, or an engine fails; what was measured before is written and shown.
    """
    _check(options)
    cells = parse_cells(
        ",".join(options.cells),
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
    )
    check_cells(cells, max_num_seqs=options.max_num_seqs)
    targets = options.target_modules
    check_targets(targets)
    count = max(cell.adapters for cell in cells)
    ranks = [options.ranks[number % len(options.ranks)] for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="plait-bench-") as folder:
        model = _model(options, Path(folder))
        config = read_config(str(model), _load_format(options))
        value_bytes = getattr(torch, options.dtype).itemsize
        costs = ModelCosts.of(config, targets, ranks, value_bytes)
        keywords = _engine_keywords(options, model, config, cells)
        report = _report(options, model, targets, keywords, costs)
        # The files are bfloat16, whatever the model is.
        with make_folder("plait-adapters-", 2 * sum(costs.adapters)) as adapter_folder:
            if count:
                _say(f"making {count} random adapters")
            paths = write_adapters(
                config, Path(adapter_folder), ranks=ranks, targets=targets, seed=options.seed
            )
            adapters = Adapters(paths, ranks)
            repeats = Repeats(options.warmup, options.repeats, options.seed)
            results = (
                result
                for setting in _settings(options, keywords)
                for result in measure(setting, cells, adapters, config.vocab_size, repeats, _say)
            )
            _tell(results, report, options.json)


def _check(options: argparse.Namespace) -> None:
    if options.peer == "vllm" and options.peer_python is None:
        text = "--peer vllm needs --peer-python, the Python of an environment that has vLLM"
        raise InputError(text)
    if options.trace is not None and (options.device == "cpu" or not torch.cuda.is_available()):
        text = (
            "--trace looks at a GPU, and this run has none; leave it out. `python -m plait.bench "
            "profile` says where the time of a step goes on a CPU"
        )
        raise InputError(text)
    if options.peer == "vllm" and options.model is not None and options.model.is_file():
        text = (
            f"--peer vllm reads checkpoints only, and --model {options.model} is a file; pass a "
            "directory, or --shape"
        )
        raise InputError(text)


def _model(options: argparse.Namespace, folder: Path) -> Path:
    if options.model is not None:
        return Path(options.model).resolve()
    path = folder / str(options.shape)
    write_shape(options.shape, path)
    return path


def _load_format(options: argparse.Namespace) -> str:
    return "auto" if options.shape is None else "dummy"


def _engine_keywords(
    options: argparse.Namespace, model: Path, config: ModelConfig, cells: Sequence[OfflineCell]
) -> dict[str, Any]:
    """Return the arguments that every engine of the run gets."""
    longest = max(cell.prompt_tokens + cell.output_tokens for cell in cells)
    default = min(max(longest, _LEAST_MODEL_LEN), config.max_position)
    keywords = {
        "model": str(model),
        "dtype": options.dtype,
        "load_format": _load_format(options),
        "skip_tokenizer_init": True,
        "max_model_len": options.max_model_len or default,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "enable_prefix_caching": False,
        "enforce_eager": options.enforce_eager,
        "seed": options.seed,
    }
    if options.gpu_memory_utilization is not None:
        keywords["gpu_memory_utilization"] = options.gpu_memory_utilization
    return keywords


def _settings(options: argparse.Namespace, keywords: Mapping[str, Any]) -> Iterator[EngineSetting]:
    environment = variables(options.threads) if options.threads else OFFLINE
    ours = {"device": options.device, "kernels": options.kernels}
    if options.trace is not None:
        options.trace.mkdir(parents=True, exist_ok=True)
    yield EngineSetting(
        "plait", sys.executable, environment, {**keywords, **ours}, options.llm, options.trace
    )
    if options.peer == "vllm":
        # A forked engine would keep the pipe to the parent open after its worker has died.
        spawn = {"VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn"}
        environment = {**OFFLINE, **spawn, **dict(options.peer_env)}
        yield EngineSetting("vllm", options.peer_python, environment, keywords, options.peer_llm)


def _report(
    options: argparse.Namespace,
    model: Path,
    targets: list[str],
    keywords: Mapping[str, Any],
    costs: ModelCosts,
) -> Report:
    _say("measuring the device")
    environment = variables(options.threads) if options.threads else OFFLINE
    with Worker("the device", "device_system", environment=environment) as worker:
        measured = worker.call("measure", device=options.device, dtype=options.dtype).result
    around = OfflineCircumstances(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=measured["name"] or processor_name(),
        model=model.name,
        dtype=options.dtype,
        max_model_len=keywords["max_model_len"],
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        enforce_eager=options.enforce_eager,
        kernels=options.kernels,
        ranks=list(options.ranks),
        target_modules=targets,
        seed=options.seed,
    )
    rates = DeviceRates(measured["bytes_per_second"], measured["flops_per_second"])
    return Report(around, rates, costs)


def _tell(results: Iterator[OfflineResult], report: Report, file: Path | None) -> None:
    measured: list[OfflineResult] = []
    if file is not None:
        file.write_text("", encoding="utf-8")
    try:
        for result in results:
            measured.append(result)
            if file is not None:
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(report.json_line(result, measured)) + "\n")
    finally:
        # Also when a later cell fails or somebody has waited long enough.
        if measured:
            parts = report.heading(), report.table(measured), *report.traces(measured)
            print("\n\n".join(parts))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
