"""What holds on a GPU alone: captured steps, repeated bits, nothing compiled while serving."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plait import LLM, LoRARequest, SamplingParams
from plait.bench.device_trace import DeviceTrace
from plait.bench.workers.engine_system import System
from plait.padded_steps import PaddedSteps
from plait.step_outputs import StepOutputs
from plait.step_sizes import StepSize

pytestmark = pytest.mark.gpu

DTYPES = ("float32", "bfloat16")


@pytest.fixture(scope="module")
def adapters(save_tiny_adapter: Callable[..., Path]) -> list[LoRARequest | None]:
    """The base model, and adapters of several ranks and site sets."""
    options: list[dict[str, Any]] = [
        {"r": 3},
        {"r": 16, "target_modules": "all-linear"},
        {"r": 33, "target_modules": ["q_proj", "v_proj"]},
        {"r": 8, "target_modules": ["gate_proj", "up_proj", "o_proj"]},
    ]
    paths = [save_tiny_adapter(seed=i, **each) for i, each in enumerate(options)]
    return [None, *(LoRARequest(f"a{i}", i + 1, str(path)) for i, path in enumerate(paths))]


@pytest.fixture(scope="module")
def make(make_tiny_llm: Callable[..., LLM]) -> Callable[..., LLM]:
    def make(**keywords: Any) -> LLM:
        options: dict[str, Any] = {
            "num_gpu_blocks_override": 512,
            "lora_memory_bytes": 16 << 20,
            "max_num_seqs": 32,
            # More than steps are padded to: some are computed as they come.
            "max_num_batched_tokens": 1024,
        }
        return make_tiny_llm(**(options | keywords))

    return make


class LogitsRecord:
    """The logits of every padded step of an engine, as bits, and the sizes of the steps."""

    def __init__(self, llm: LLM) -> None:
        steps = padded_steps(llm)
        self.bits: list[bytes] = []
        self.sizes: set[StepSize] = set()
        self._run = steps.run
        steps.run = self.run  # type: ignore[method-assign]

    def run(self, plan: Any, size: StepSize) -> StepOutputs:
        outputs = self._run(plan, size)
        self.bits.append(outputs.logits.cpu().numpy().tobytes())
        self.sizes.add(size)
        return outputs


def padded_steps(llm: LLM) -> PaddedSteps:
    runner: Any = llm.llm_engine.core.runner
    steps = runner.padded_steps
    assert isinstance(steps, PaddedSteps)
    return steps


def serve(llm: LLM, adapters: list[LoRARequest | None], requests: int, seed: int) -> list[Any]:
    """Run ragged requests of all adapters; return what they answered."""
    for adapter in adapters:
        if adapter is not None:
            # Steps do not depend on how long it takes to read its files.
            llm.llm_engine.add_lora(adapter)
    draw = random.Random(seed)
    prompts = [draw.choices(range(128), k=draw.randint(1, 40)) for _ in range(requests)]
    params = [
        SamplingParams(
            temperature=draw.choice((0.0, 0.8)),
            top_p=draw.choice((1.0, 0.9)),
            repetition_penalty=draw.choice((1.0, 1.0, 1.3)),
            max_tokens=draw.randint(1, 24),
            ignore_eos=True,
            seed=i,
        )
        for i in range(requests)
    ]
    handles = [draw.choice(adapters) for _ in range(requests)]
    outputs = llm.generate(prompts, params, lora_request=handles, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.parametrize("dtype", DTYPES)
def test_captured_steps_have_the_bits_of_computed_ones(
    make: Callable[..., LLM], adapters: list[LoRARequest | None], dtype: str
) -> None:
    captured, eager = make(dtype=dtype), make(dtype=dtype, enforce_eager=True)
    records = LogitsRecord(captured), LogitsRecord(eager)
    answers = [serve(llm, adapters, 60, seed=1) for llm in (captured, eager)]
    assert answers[0] == answers[1]
    assert len(records[0].bits) > 20
    assert {size.is_decode for size in records[0].sizes} == {True, False}
    assert records[0].bits == records[1].bits
    assert padded_steps(captured).captures > 0
    assert padded_steps(eager).captures == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_lora_that_is_on_and_unused_changes_no_bit(
    make: Callable[..., LLM], adapters: list[LoRARequest | None], dtype: str
) -> None:
    plain, llm = make(dtype=dtype, enable_lora=False, lora_memory_bytes=None), make(dtype=dtype)
    serve(llm, adapters, 20, seed=4)  # adapters are there, and no longer used
    graphs = set(padded_steps(plain)._graphs)
    records = LogitsRecord(plain), LogitsRecord(llm)
    answers = [serve(engine, [None], 60, seed=5) for engine in (plain, llm)]
    assert answers[0] == answers[1]
    assert len(records[0].bits) > 20
    assert records[0].bits == records[1].bits
    assert {site_set for _, site_set in graphs} == {frozenset()}
    assert graphs <= set(padded_steps(llm)._graphs)


PROGRAM = """
import importlib.util, json, sys
from plait import LoRARequest
spec = importlib.util.spec_from_file_location("test_gpu", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handles = [p and LoRARequest(*p) for p in json.loads(sys.argv[3])]
print("\\n" + module.digest(json.loads(sys.argv[2]), handles))
"""


def digest(keywords: dict[str, Any], adapters: list[LoRARequest | None]) -> str:
    """Serve the same requests on a new engine and hash all logits and answers."""
    llm = LLM(**keywords)
    record = LogitsRecord(llm)
    answers = serve(llm, adapters, 40, seed=2)
    found = hashlib.sha256(json.dumps(answers).encode())
    for bits in record.bits:
        found.update(bits)
    return found.hexdigest()


def test_a_new_process_gives_the_same_bits(
    tiny_model: Path, adapters: list[LoRARequest | None]
) -> None:
    keywords = {
        "model": str(tiny_model),
        "skip_tokenizer_init": True,
        "enable_lora": True,
        "num_gpu_blocks_override": 512,
        "lora_memory_bytes": 16 << 20,
        "max_num_seqs": 32,
        "dtype": "bfloat16",
    }
    handles = [a and (a.lora_name, a.lora_int_id, a.lora_path) for a in adapters]
    command = [sys.executable, "-c", PROGRAM, __file__, json.dumps(keywords), json.dumps(handles)]
    found = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
        for _ in range(2)
    ]
    assert found[0] == found[1] == digest(keywords, adapters)


def test_nothing_is_captured_once_it_is_warm(
    make: Callable[..., LLM], adapters: list[LoRARequest | None]
) -> None:
    llm = make(dtype="bfloat16")
    warm_up(llm, adapters)
    steps = padded_steps(llm)
    captures = steps.captures
    answers = serve(llm, adapters, 1000, seed=3)
    assert len(answers) == 1000
    assert steps.captures == captures


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_step_compiles_anything(
    tiny_model: Path, save_tiny_adapter: Callable[..., Path], dtype: str
) -> None:
    """In a process of its own, as Triton keeps what other engines of this one have compiled."""
    options: list[dict[str, Any]] = [
        {"r": 3},
        {"r": 16, "target_modules": "all-linear"},
        {"r": 8, "target_modules": ["gate_proj", "up_proj", "o_proj"]},
        {"r": 9, "target_modules": ["v_proj", "up_proj", "lm_head"]},
        # More tiles than there is room for from the start; it comes last.
        {"r": 200, "target_modules": ["q_proj", "down_proj"]},
    ]
    paths = [save_tiny_adapter(seed=i, **each) for i, each in enumerate(options)]
    handles = [None, *((f"a{i}", i + 1, str(path)) for i, path in enumerate(paths))]
    keywords = {
        "model": str(tiny_model),
        "skip_tokenizer_init": True,
        "enable_lora": True,
        "num_gpu_blocks_override": 1024,
        "lora_memory_bytes": 4 << 20,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
        "dtype": dtype,
    }
    program = PROGRAM.replace("module.digest", "module.compiled_in_steps")
    command = [sys.executable, "-c", program, __file__, json.dumps(keywords), json.dumps(handles)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert said["compiled"] == []
    # There were steps of each kind.
    assert min(said["tokens"]) < 16
    assert any(512 < tokens <= 1024 for tokens in said["tokens"])
    assert any(tokens > 1024 for tokens in said["tokens"])


def compiled_in_steps(keywords: dict[str, Any], adapters: list[LoRARequest | None]) -> str:
    """Serve what is different in any way; say what Triton compiled once the engine was there."""
    import triton

    llm = LLM(**keywords)
    compiled: list[str] = []
    triton.knobs.runtime.jit_cache_hook = lambda **event: compiled.append(event["repr"])
    runner: Any = llm.llm_engine.core.runner
    tokens, start = [], runner.start

    def note(plan: Any) -> Any:
        tokens.append(plan.num_tokens)
        return start(plan)

    runner.start = note
    draw = random.Random(4)
    for requests in (1, 2, 3, 9, 17, 33, 64, 100, 200, 300):
        # The last adapter comes late.
        served = adapters if requests > 100 else adapters[:-1]
        prompts = [draw.choices(range(128), k=draw.randint(1, 90)) for _ in range(requests)]
        params = [
            SamplingParams(
                temperature=draw.choice((0.0, 0.8)),
                top_k=draw.choice((0, 1, 7)),
                top_p=draw.choice((1.0, 0.9)),
                min_p=draw.choice((0.0, 0.1)),
                repetition_penalty=draw.choice((1.0, 1.3)),
                frequency_penalty=draw.choice((0.0, 0.5)),
                logprobs=draw.choice((None, 2)),
                prompt_logprobs=draw.choice((None, None, 1)),
                max_tokens=draw.randint(1, 30),
                ignore_eos=True,
                seed=i,
            )
            for i in range(requests)
        ]
        handles = [draw.choice(served) for _ in range(requests)]
        llm.generate(prompts, params, lora_request=handles, use_tqdm=False)
    return json.dumps({"compiled": compiled, "tokens": sorted(set(tokens))})


def test_a_step_is_started_without_waiting_for_the_device(
    make: Callable[..., LLM], adapters: list[LoRARequest | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = make(dtype="bfloat16")
    serve(llm, adapters, 100, seed=1)
    runner: Any = llm.llm_engine.core.runner
    start, started = runner.start, []

    def start_at_once(plan: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            started.append(start(plan))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return started[-1]

    monkeypatch.setattr(runner, "start", start_at_once)
    serve(llm, adapters, 100, seed=1)
    options: list[dict[str, Any]] = [
        {"logprobs": 3},
        {"prompt_logprobs": 2},
        {"logit_bias": {5: 2.0}},
        {"allowed_token_ids": [3, 4, 5]},
        {"min_tokens": 4, "stop_token_ids": [7]},
        {"repetition_penalty": 1.2, "min_p": 0.1, "temperature": 0.7, "top_k": 9},
    ]
    params = [SamplingParams(**(option | {"max_tokens": 8})) for option in options * 4]
    handles = [adapters[i % len(adapters)] for i in range(len(params))]
    prompts = [[1 + i % 100] * (3 + i) for i in range(len(params))]
    outputs = llm.generate(prompts, params, lora_request=handles, use_tqdm=False)
    assert len(outputs) == len(params)
    assert len(started) > 20


def test_a_trace_sees_the_kernels_of_captured_steps(tiny_model: Path, tmp_path: Path) -> None:
    system = System()
    limits = {"max_model_len": 64, "max_num_seqs": 4, "dtype": "bfloat16"}
    system.load("plait", {"model": str(tiny_model), "skip_tokenizer_init": True, **limits})
    file, asked = tmp_path / "trace.json", {"prompts": [[5, 9, 2]] * 4, "adapters": [None] * 4}
    steps = system.trace(str(file), begun=4, ended=0, most=20, **asked, output_tokens=40)
    trace = DeviceTrace.read(file, steps)
    calls = {kernel.name: kernel.calls for kernel in trace.kernels}
    # One of each of the two layers in each step; the first step may have been under way.
    assert 2 * (steps - 1) <= calls["decode_kernel"] <= 2 * (steps + 1)
    assert 0 < trace.idle_seconds < trace.seconds


def warm_up(llm: LLM, adapters: list[LoRARequest | None]) -> None:
    """Capture every (size, site set) that the requests will need."""
    for seed in range(3):
        serve(llm, adapters, 200, seed)
    steps = padded_steps(llm)
    device = llm.llm_engine.core.runner.adapters  # type: ignore[attr-defined]
    sets = [resident.groups for resident in device.arena._residents.values()]
    unions = {
        frozenset[str]().union(*(s for i, s in enumerate(sets) if n >> i & 1))
        for n in range(2 ** len(sets))
    }
    steps.warm_up(unions)


def test_large_steps_equal_small_ones(
    make: Callable[..., LLM], adapters: list[LoRARequest | None]
) -> None:
    """In float32 an answer does not depend on who shares the batch."""
    llm = make(dtype="float32")
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    prompts = [np.random.default_rng(i).integers(0, 128, 5 + i).tolist() for i in range(32)]
    handles = [adapters[i % len(adapters)] for i in range(32)]
    together = llm.generate(prompts, params, lora_request=handles, use_tqdm=False)
    for i in (0, 7, 13, 19, 31):
        alone = llm.generate(prompts[i], params, lora_request=handles[i], use_tqdm=False)[0]
        assert alone.outputs[0].token_ids == together[i].outputs[0].token_ids
