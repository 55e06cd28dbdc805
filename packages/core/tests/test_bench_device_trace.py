"""What a GPU did, of traces made up, and of a CPU, on which there is nothing to see."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, Self

import pytest

from plait.bench import offline_engines
from plait.bench.__main__ import main
from plait.bench.device_trace import DeviceTrace, KernelTime, Work
from plait.bench.offline_cells import parse_cells
from plait.bench.offline_engines import Adapters, EngineSetting, Repeats, measure
from plait.bench.worker import Answer
from plait.bench.workers.engine_system import System
from plait_kernels.errors import PlaitError


def chrome(*events: tuple[str, str, int, int]) -> str:
    """Return a trace of (category, name, start, duration) in µs, with what else is in one."""
    listed = [
        {"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration}
        for category, name, start, duration in events
    ]
    return json.dumps({"traceEvents": [{"ph": "M", "name": "process_name"}, *listed]})


def test_kernels_beside_each_other_and_gaps(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    file.write_text(
        chrome(
            ("cuda_runtime", "cudaGraphLaunch", 0, 500),
            ("kernel", "gemm", 100, 40),
            ("kernel", "shrink", 110, 10),
            ("kernel", "gemm", 150, 30),
            ("gpu_memcpy", "Memcpy HtoD", 190, 10),
        )
    )
    trace = DeviceTrace.read(file, steps=2)
    assert trace.seconds == pytest.approx(100e-6)
    assert trace.idle_seconds == pytest.approx(20e-6)
    assert trace.idle == pytest.approx(0.2)
    assert trace.longest_idle_seconds == pytest.approx(10e-6)
    assert [(kernel.name, kernel.calls) for kernel in trace.kernels] == [
        ("gemm", 2),
        ("shrink", 1),
        ("Memcpy HtoD", 1),
    ]
    assert trace.kernels[0].seconds == pytest.approx(70e-6)
    assert (
        "2 steps of 0.050 ms, the device idle for 20.0%, at most 0.010 ms at a time"
        in trace.table()
    )
    assert trace.table().splitlines()[-3].split() == ["gemm", "35.0", "70.0%", "1"]
    assert trace.json()["kernels"]["shrink"] == {"calls": 1, "seconds": pytest.approx(10e-6)}


@pytest.mark.parametrize("seed", range(5))
def test_idle_is_when_nothing_runs(seed: int) -> None:
    draw = random.Random(seed)
    spans = [(start, start + draw.randint(1, 30)) for start in draw.choices(range(300), k=20)]
    busy = {moment for start, end in spans for moment in range(start, end)}
    trace = DeviceTrace.of([Work("k", start, end) for start, end in spans], steps=1)
    whole = max(busy) + 1 - min(busy)
    gaps = "".join("x" if m in busy else " " for m in range(min(busy), max(busy))).split("x")
    assert trace.longest_idle_seconds == max(map(len, gaps))
    assert (trace.seconds, trace.idle_seconds) == (whole, whole - len(busy))


def test_what_takes_little_is_summed_up() -> None:
    kernels = tuple(KernelTime(f"k{i}" + "x" * 90, 2, 1.0 / (1 + i)) for i in range(30))
    lines = DeviceTrace(2, 10.0, 0.0, 0.0, kernels).table().splitlines()
    assert lines[-2].startswith("k24xxx")
    assert "…" in lines[-2]
    assert lines[-1].split()[:2] == ["(5", "others)"]
    assert lines[-1].split()[-1] == "5"


def test_a_trace_without_a_device(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    file.write_text(chrome(("cpu_op", "aten::mm", 0, 5)))
    with pytest.raises(PlaitError, match="has no work of a GPU"):
        DeviceTrace.read(file, steps=1)


@pytest.mark.parametrize(
    ("window", "looked_at"),
    [
        # Four tokens a step: two steps until both prompts have begun, seven until one has ended.
        ({"begun": 2, "ended": 0, "most": 3}, 3),
        ({"begun": 0, "ended": 1, "most": 9}, 1),
        ({"begun": 0, "ended": 0, "most": None}, 7),
    ],
)
def test_steps_are_looked_at(
    tiny_model: Path, tmp_path: Path, window: dict[str, Any], looked_at: int
) -> None:
    system = System()
    limits = {"max_model_len": 32, "max_num_seqs": 2, "max_num_batched_tokens": 4}
    system.load("plait", {"model": str(tiny_model), "skip_tokenizer_init": True, **limits})
    file = tmp_path / "trace.json"
    asked: dict[str, Any] = {"prompts": [[1, 2, 3], [4, 5, 6]], "adapters": [None, None]}
    assert system.trace(str(file), **window, **asked, output_tokens=6) == looked_at
    names = [event["name"] for event in json.loads(file.read_text())["traceEvents"]]
    # Of what was looked at, not of the steps before: one gather of token embeddings a step.
    assert names.count("aten::embedding") == looked_at
    assert not system._engine.has_unfinished_requests()


@pytest.mark.parametrize(("name", "output_tokens"), [("D-2-0", 1), ("S-2-0", 2)])
def test_a_cell_is_traced_after_it_is_measured(
    name: str, output_tokens: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = name.replace("-", ":")
    (cell,) = parse_cells(text, prompt_tokens=4, output_tokens=output_tokens)
    asked: list[tuple[str, Any]] = []

    class Fake:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def call(self, method: str, **arguments: Any) -> Answer:
            asked.append((method, arguments.get("prompts")))
            if method == "trace":
                seen = {"begun": cell.requests, "ended": 0, "most": 1}
                seen = seen if cell.letter == "D" else {"begun": 0, "ended": 1, "most": 2}
                assert arguments.items() >= seen.items()
                assert arguments["arrivals"] == (None if cell.letter == "D" else 1.0)
                Path(arguments["file"]).write_text(chrome(("kernel", "gemm", 0, 9)))
            moments = [(0.1, 2, 2, 0), (0.2, 4, 2, 2), (0.3, 6, 5, 2)]
            return Answer(0.0, {"load": {}, "run": moments, "trace": 1}[method])

    monkeypatch.setattr(offline_engines, "Worker", Fake)
    setting = EngineSetting("plait", "python", {}, {}, {}, tmp_path)
    (result,) = measure(setting, [cell], Adapters(), 9, Repeats(0, 1, seed=0), lambda _: None)
    assert [method for method, _ in asked] == ["load", "run", "trace"]
    # Not those of the run before: they might be cached.
    assert asked[1][1] != asked[2][1]
    assert result.seconds == [pytest.approx(0.1)]
    assert result.trace == DeviceTrace(1, 9e-6, 0.0, 0.0, (KernelTime("gemm", 1, 9e-6),))
    assert (tmp_path / f"{name}.json").exists()


def test_there_is_nothing_to_trace_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--shape", "tiny", "--device", "cpu", "--trace", str(tmp_path / "traces")]
    assert main(["decode", *options]) == 1
    assert "--trace looks at a GPU, and this run has none" in capsys.readouterr().err
    assert not (tmp_path / "traces").exists()
