"""Where the time of a step goes: what is counted and that it adds up. Nothing is said of speed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from plait import EngineArgs, LoRARequest
from plait.bench import kernel_clock
from plait.bench.__main__ import main
from plait.bench.kernel_clock import Clock, PartTime, TimedKernel, timed_table
from plait.bench.profile_report import AROUND, ELSE, IN_RUNNER, profiles, table
from plait.bench.step_times import StepTimes, TimedEngine
from plait_kernels.config import OpConfig
from plait_kernels.errors import AdapterError, InputError
from plait_kernels.table import KernelTable

LAYERS = 2
BASE_CALLS = {
    "linears": 4 * LAYERS,
    "head": 1,
    "attention plan": 1,
    "attention": LAYERS,
    "kv_write": LAYERS,
    "norms": 1 + 2 * LAYERS,
    "rotary": LAYERS,
    "activation": LAYERS,
    "sampling": 1,
}
PROMPTS = [[5, 9, 2, 7], [3], [8, 1, 4, 4, 6, 2, 11]]


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules in two of the four groups of linears."""
    path = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(LlamaForCausalLM.from_pretrained(tiny_model), config).save_pretrained(str(path))
    return path


def run(
    model: Path,
    adapters: Sequence[Path | None],
    *,
    enable_lora: bool = True,
    output_tokens: int = 5,
) -> list[StepTimes]:
    args = EngineArgs(
        str(model), dtype="float32", enable_lora=enable_lora, max_model_len=32, max_num_seqs=3
    )
    requests = [None if path is None else LoRARequest("a", 1, str(path)) for path in adapters]
    engine = TimedEngine(args)
    # Once before: the adapters are loaded then.
    engine.generate(PROMPTS, requests, 1)
    return engine.generate(PROMPTS, requests, output_tokens)


def calls(step: StepTimes) -> dict[str, int]:
    return {part: time.calls for part, time in step.parts.items()}


@pytest.mark.parametrize("enable_lora", [False, True])
def test_every_kernel_of_a_base_step_is_counted(tiny_model: Path, enable_lora: bool) -> None:
    steps = run(tiny_model, [None] * 3, enable_lora=enable_lora)
    assert [(step.rows, step.tokens, step.is_decode) for step in steps] == [
        (3, 12, False),
        *[(3, 3, True)] * 4,
    ]
    assert [calls(step) for step in steps] == [BASE_CALLS] * 5


def test_lora_is_counted_where_the_adapter_acts(tiny_model: Path, adapter: Path) -> None:
    steps = run(tiny_model, [None, adapter, adapter])
    lora_calls = {"lora shrink": 2 * LAYERS, "lora expand": 2 * LAYERS}
    assert [calls(step) for step in steps] == [BASE_CALLS | lora_calls] * 5


def test_parts_are_inside_the_runner_which_is_inside_the_step(
    tiny_model: Path, adapter: Path
) -> None:
    steps = run(tiny_model, [adapter, None, None])
    for step in steps:
        assert all(time.seconds > 0 for time in step.parts.values())
        assert 0 < step.kernel_seconds < step.runner_seconds < step.seconds
    for profile in profiles(steps, requests=3):
        seconds = {line.part: line.seconds for line in profile.lines}
        assert min(seconds.values()) > 0
        around, in_runner = seconds.pop(AROUND), seconds.pop(IN_RUNNER)
        if profile.kind == "prefill":
            assert around + in_runner == pytest.approx(seconds[ELSE])
            assert sum(seconds.values()) == pytest.approx(profile.seconds)


def test_a_request_that_fails_is_told(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError):
        run(tiny_model, [None, tmp_path, None])


def test_the_clock_adds_up_what_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_clock, "perf_counter", itertools.count().__next__)
    clock = Clock()
    twice = clock.timed("a", lambda x: 2 * x)
    clock.timed("never", abs)
    assert [twice(4), twice(x=-3)] == [8, -6]
    assert clock.timed("a", abs)(-1) == 1
    assert clock.timed("b", abs)(-1) == 1
    assert clock.take() == {"a": PartTime(3, 3), "b": PartTime(1, 1)}
    assert clock.take() == {}


def test_what_is_not_timed_is_the_kernels_own() -> None:
    kernel = TimedKernel(SimpleNamespace(layout="rows", run=min), {"run": max})
    assert (kernel.layout, kernel.run(1, 2)) == ("rows", 2)
    with pytest.raises(AttributeError):
        kernel.prepare  # noqa: B018


def test_calls_that_an_implementation_need_not_have() -> None:
    config = OpConfig.of("lora", dtype="float32", bucket="decode", max_tokens=1, group="gate_up")
    calls = dict.fromkeys(("shrink", "expand", "expand_silu_and_mul"), abs)
    clock = Clock()
    for names in (("shrink", "expand"), tuple(calls)):
        kernel = SimpleNamespace(**{name: calls[name] for name in names})
        (timed,) = timed_table(KernelTable({}, {config: kernel}), clock, 9).implementations.values()
        assert [name for name in calls if hasattr(timed, name)] == list(names)
        assert [getattr(timed, name)(-1) for name in names] == [1] * len(names)
        counted = {part: time.calls for part, time in clock.take().items()}
        assert counted == {"lora shrink": 1, "lora expand": len(names) - 1}


def test_an_op_without_a_part_counts_under_its_name() -> None:
    def config(op: str, **params: int) -> OpConfig:
        return OpConfig.of(op, dtype="float32", bucket="decode", max_tokens=1, **params)

    head, other = (config("linear", in_features=8, out_features=size) for size in (9, 8))
    chosen = KernelTable({}, {config("quantize"): abs, head: abs, other: abs})
    clock = Clock()
    timed = timed_table(chosen, clock, vocab_size=9)
    assert list(timed.implementations) == list(chosen.implementations)
    assert [kernel(-1) for kernel in timed.implementations.values()] == [1, 1, 1]
    assert set(clock.take()) == {"quantize", "head", "linears"}


def step(rows: int, tokens: int, seconds: float, **parts: float) -> StepTimes:
    times = {part: PartTime(taken, 2) for part, taken in parts.items()}
    return StepTimes(rows, tokens, seconds, seconds - 0.25, times)


STEPS = [
    step(2, 9, 8.0, linears=4.0, attention=1.0),
    step(0, 0, 1.0),
    step(2, 2, 3.0, linears=1.0, quantize=0.5),
    step(2, 2, 9.0, linears=7.0, quantize=0.5),
    step(2, 2, 4.0, linears=2.0),
    step(1, 1, 0.5, linears=0.125),
]


def test_decode_is_a_median_over_full_steps_and_prefill_a_sum() -> None:
    decode, prefill = profiles(STEPS, requests=2)
    assert (decode.steps, decode.seconds, decode.rate) == (3, 4.0, 0.5)
    assert {line.part: (line.seconds, line.calls) for line in decode.lines} == {
        "linears": (2.0, 2),
        "quantize": (0.5, 4 / 3),
        ELSE: (1.5, None),
        IN_RUNNER: (1.25, None),
        AROUND: (0.25, None),
    }
    assert (prefill.steps, prefill.tokens, prefill.seconds, prefill.timers) == (2, 9, 9.0, 2)
    assert {line.part: line.seconds for line in prefill.lines} == {
        "linears": 4.0,
        "attention": 1.0,
        ELSE: 4.0,
        IN_RUNNER: 3.5,
        AROUND: 0.5,
    }
    lines = table(decode, timer_seconds=0.003).splitlines()
    assert lines[0] == "decode, median of 3 steps of 2 rows: 0.5 tokens/s"
    assert lines[4].split() == ["linears", "2000.00", "50.0%", "2"]
    assert lines[-3].split() == ["total", "4000.00", "100.0%"]
    assert lines[-1].endswith("about 10.00 ms of a step.")


def test_steps_cross_a_process_as_json() -> None:
    assert [StepTimes.from_json(json.loads(json.dumps(asdict(step)))) for step in STEPS] == STEPS


def test_without_a_full_decode_step_there_is_no_profile() -> None:
    with pytest.raises(InputError, match=r"no step of this run decoded all 3 .*--output-tokens"):
        profiles(STEPS, requests=3)
    assert [profile.kind for profile in profiles(STEPS[2:], requests=2)] == ["decode"]


def test_the_command(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "profile.jsonl"
    options = ["--model", str(tiny_model), "--output", str(output), "--threads", "1"]
    options += ["--requests", "3", "--prompt-tokens", "6", "--output-tokens", "4"]
    assert main(["profile", *options, "--adapters", "2"]) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["kind"], line["steps"], line["tokens"]) for line in lines] == [
        ("decode", 3, 3),
        ("prefill", 1, 18),
    ]
    lora_calls = {"lora shrink": 4 * LAYERS, "lora expand": 4 * LAYERS}
    for line in lines:
        assert (line["requests"], line["adapters"], line["dtype"]) == (3, 2, "float32")
        parts = line["parts"]
        counted = {part: times["calls_a_step"] for part, times in parts.items()}
        kernels = {part: count for part, count in counted.items() if count is not None}
        assert kernels == BASE_CALLS | lora_calls
        assert line["timed_calls_a_step"] == sum(kernels.values())
        for times in parts.values():
            assert times["share"] == pytest.approx(times["seconds"] / line["seconds"])
    printed = capsys.readouterr().out
    assert "3 x 6 in, 4 out, 2 adapters: " in printed
    assert "decode, median of 3 steps of 3 rows: " in printed
    assert "prefill, sum of 1 steps, 18 tokens: " in printed


def test_more_adapters_than_requests(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(tiny_model), "--output", str(tmp_path / "profile.jsonl")]
    assert main(["profile", *options, "--requests", "2", "--adapters", "3"]) == 1
    assert "--adapters 3 is more than --requests 2" in capsys.readouterr().err
