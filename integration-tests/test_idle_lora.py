"""What is not used costs nothing: LoRA that is enabled and idle, and groups without an adapter."""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from plait import LLM, LoRARequest, SamplingParams
from plait.plan import StepPlan
from plait.runner import Started
from plait_kernels import Backend, Kernel, hookimpl
from plait_kernels.config import OpConfig
from plait_kernels.torch_backend.lora import make as make_torch_lora
from plait_lora.commands import StoreCommands
from plait_models.model import StepInputs

LAYERS = 2
PROMPTS = [list(range(3, 43)), [7], [5, 99, 23], list(range(100, 40, -1))]
GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
GROUP_OF = {
    "q_proj": "qkv",
    "k_proj": "qkv",
    "v_proj": "qkv",
    "o_proj": "o",
    "gate_proj": "gate_up",
    "up_proj": "gate_up",
    "down_proj": "down",
    "lm_head": "head",
}


@dataclass
class LoraCalls:
    """Groups of the calls of a backend's ``lora``, in their order."""

    shrink: list[str] = field(default_factory=list)
    expand: list[str] = field(default_factory=list)


class CountingLora:
    """``lora`` of the ``torch`` backend, with a list of its calls."""

    def __init__(self, config: OpConfig, calls: LoraCalls) -> None:
        self._inner = make_torch_lora(config)
        self._calls = calls

    def shrink(self, x: torch.Tensor, sites: Any, batch: Any) -> Any:
        self._calls.shrink.append(sites[0].group)
        return self._inner.shrink(x, sites, batch)

    def expand(self, h: Any, sites: Any, batch: Any, y: torch.Tensor) -> None:
        self._calls.expand.append(sites[0].group)
        self._inner.expand(h, sites, batch, y)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoraCalls:
    """Install a distribution that brings the backend ``counting``; return the calls it sees."""
    seen = LoraCalls()
    plugin: Any = types.ModuleType("counting_lora")

    @hookimpl
    def plait_kernel_backend() -> Backend:
        return Backend("counting", kernels=(Kernel("lora", "counting_lora:make"),))

    plugin.plait_kernel_backend = plait_kernel_backend
    plugin.make = lambda config: CountingLora(config, seen)
    monkeypatch.setitem(sys.modules, "counting_lora", plugin)
    info = tmp_path / "counting_lora-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting-lora\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[plait.kernels]\ncounting = counting_lora\n")
    monkeypatch.syspath_prepend(tmp_path)
    return seen


class StepRecord:
    """What an engine's steps are told and what they run."""

    def __init__(self, llm: LLM) -> None:
        runner: Any = llm.llm_engine.core.runner
        self.commands: list[StoreCommands] = []
        self.inputs: list[StepInputs] = []
        self.batches = 0
        self.ops: list[tuple[Any, ...]] = []
        self._start, self._forward = runner.start, runner.model.forward
        runner.start, runner.model.forward = self.start, self.forward
        if runner.adapters is not None:
            self._batch, runner.adapters.arena.batch = runner.adapters.arena.batch, self.batch

    def start(self, plan: StepPlan) -> Started:
        self.commands.append(plan.commands)
        with Recorder(self.ops):
            step: Started = self._start(plan)
        return step

    def forward(self, inputs: StepInputs) -> torch.Tensor:
        self.inputs.append(inputs)
        hidden: torch.Tensor = self._forward(inputs)
        return hidden

    def batch(self, *arguments: Any) -> Any:
        self.batches += 1
        return self._batch(*arguments)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lists every op that torch runs, with shapes, strides and dtypes of what it takes."""

    def __init__(self, ops: list[tuple[Any, ...]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ops = ops

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (*args, *(kwargs or {}).items())
        self._ops.append((str(func), *map(described, given)))
        return func(*args, **(kwargs or {}))


def described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(described, value))
    return value


@pytest.fixture
def make(tiny_model: Path) -> Callable[..., LLM]:
    def make(**keywords: Any) -> LLM:
        options: dict[str, Any] = {
            "skip_tokenizer_init": True,
            "num_gpu_blocks_override": 64,
            "max_num_seqs": 16,
            "max_num_batched_tokens": 32,
            "enable_prefix_caching": False,
            "kernels": "*=torch",  # whose every op the recorder sees
            "device": "cpu",  # where no step is captured or planned ahead
        }
        return LLM(model=str(tiny_model), **(options | keywords))

    return make


@pytest.fixture
def make_counted(make: Callable[..., LLM], calls: LoraCalls) -> Callable[[], LLM]:
    return lambda: make(
        enable_lora=True, lora_memory_bytes=1 << 20, kernels="lora=counting;*=torch"
    )


def run(llm: LLM, handles: Sequence[LoRARequest | None] | None = None) -> list[list[int]]:
    """Run every prompt: chunked prefill, mixed steps and decode."""
    outputs = llm.generate(PROMPTS, GREEDY, lora_request=handles, use_tqdm=False)
    return [output.outputs[0].token_ids for output in outputs]


@pytest.mark.parametrize("earlier_use", [False, True], ids=["registered", "resident"])
def test_idle_lora_runs_what_the_base_engine_runs(
    make: Callable[..., LLM],
    make_counted: Callable[[], LLM],
    calls: LoraCalls,
    save_tiny_adapter: Callable[..., Path],
    earlier_use: bool,
) -> None:
    """Adapters are registered, or even on the device, and every request is for the base model."""
    plain, llm = make(), make_counted()
    handles = [
        LoRARequest(f"a{i}", i, str(save_tiny_adapter(i, target_modules="all-linear")))
        for i in (1, 2, 3)
    ]
    for handle in handles:
        llm.llm_engine.add_lora(handle)
    if earlier_use:
        run(llm, [*handles, None])
        run(plain)
        assert calls.shrink
        calls.shrink.clear()
        calls.expand.clear()
    expected, idle = StepRecord(plain), StepRecord(llm)
    assert run(llm) == run(plain)
    assert calls == LoraCalls()
    assert idle.batches == 0
    assert all(one.lora is None and not one.site_groups for one in idle.inputs)
    assert all(commands == StoreCommands((), (), (), ()) for commands in idle.commands)
    store = llm.llm_engine.core.library().store
    if not earlier_use:
        assert store.num_free_chunks == store.num_chunks
        assert not store.resident()
    # steps with prompts in chunks, and steps of decoding alone
    assert {one.bucket for one in idle.inputs} == {0, 1}
    assert len(expected.ops) > 100
    for ours, base in itertools.zip_longest(idle.ops, expected.ops):
        assert ours == base


@pytest.mark.parametrize("module", GROUP_OF)
def test_groups_without_an_adapter_launch_nothing(
    make_counted: Callable[[], LLM],
    calls: LoraCalls,
    save_tiny_adapter: Callable[..., Path],
    module: str,
) -> None:
    llm = make_counted()
    record = StepRecord(llm)
    handle = LoRARequest("a", 1, str(save_tiny_adapter(seed=1, target_modules=[module])))
    group = GROUP_OF[module]
    adapted = run(llm, [None, handle, handle, None])
    steps = [one for one in record.inputs if one.lora is not None]
    assert {one.site_groups for one in steps} == {frozenset({group})}
    assert set(calls.shrink) == set(calls.expand) == {group}
    if group != "head":
        assert len(calls.shrink) == len(calls.expand) == LAYERS * len(steps)
    assert run(llm) != adapted, "the adapter does nothing"


def test_a_step_launches_the_groups_of_its_own_adapters(
    make_counted: Callable[[], LLM], calls: LoraCalls, save_tiny_adapter: Callable[..., Path]
) -> None:
    """Two adapters launch the union of their groups, the one that remains its own, then nobody."""
    llm = make_counted()
    engine = llm.llm_engine
    record = StepRecord(llm)
    q = LoRARequest("q", 1, str(save_tiny_adapter(seed=1, target_modules=["q_proj"])))
    down = LoRARequest("down", 2, str(save_tiny_adapter(seed=2, target_modules=["down_proj"])))
    # Read before: they run from the same step on then.
    assert engine.add_lora(q)
    assert engine.add_lora(down)
    for name, handle, length in (("q", q, 4), ("down", down, 8), ("base", None, 12)):
        params = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
        engine.add_request(name, PROMPTS[2], params, lora_request=handle)
    seen: list[tuple[str, ...]] = []
    while engine.has_unfinished_requests():
        before = len(calls.shrink)
        engine.step()
        launched = calls.shrink[before:]
        assert all(launched.count(group) == LAYERS for group in launched)
        seen.append(tuple(sorted(set(launched))))
    assert calls.shrink == calls.expand
    assert [groups for groups, _ in itertools.groupby(seen)] == [
        (),  # the adapters are being loaded
        ("down", "qkv"),
        ("down",),
        (),
    ]
    assert sum(len(commands.loads) for commands in record.commands) == 2
