"""What the scheduler promises, one scene at a time."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from plait.block_pool import BlockPool
from plait.messages import CoreOutput, CoreRequest, ErrorInfo
from plait.scheduler import Scheduler, SchedulerConfig
from plait_lora.identity import AdapterKey
from plait_lora.store import AdapterStore

MakeRequest = Callable[..., CoreRequest]


class Scene:
    """A scheduler, a simulated runner and what has come out so far."""

    def __init__(
        self,
        runner: Callable[[int, int, int], Any],
        *,
        rows: int = 8,
        budget: int = 64,
        blocks: int = 64,
        max_loras: int | None = None,
        keys: dict[int, str] | None = None,
    ) -> None:
        self.keys = keys or {}
        self.store = AdapterStore(8, num_slots=4, max_loras=max_loras)
        for adapter in range(1, 5):
            self.store.register(self.key(adapter), (1,))
        config = SchedulerConfig(rows, budget, 48, 4)
        self.scheduler = Scheduler(config, BlockPool(blocks), self.store)
        self.runner = runner(rows, blocks, 4)
        self.outputs: dict[str, list[CoreOutput]] = {}
        self.hold_back: set[int] = set()

    def key(self, adapter: int) -> AdapterKey:
        return AdapterKey(self.keys.get(adapter, f"key{adapter}"))

    def step(self) -> None:
        for request in self.scheduler.resolving():
            assert request.message.lora is not None
            adapter = request.message.lora.lora_int_id
            if adapter not in self.hold_back:
                self.scheduler.resolved(request, ((self.key(adapter), 1.0),))
        self.plan = self.scheduler.schedule()
        self.scheduler.commit(self.plan, self.runner.run(self.plan))
        for output in self.scheduler.outputs:
            self.outputs.setdefault(output.request_id, []).append(output)
        self.scheduler.acknowledge(len(self.scheduler.outputs))

    def run(self) -> None:
        while self.scheduler.has_work:
            self.step()

    def tokens(self, request_id: str) -> list[int]:
        return [token for output in self.outputs[request_id] for token in output.new_token_ids]

    def cached(self, request_id: str) -> int:
        return self.outputs[request_id][-1].num_cached_tokens


def test_long_prompts_are_cut_to_the_budget_and_decode_goes_on(
    core_request: MakeRequest, simulated_runner: Callable[..., Any]
) -> None:
    scene = Scene(simulated_runner, budget=8)
    scene.scheduler.add(core_request("short", [1, 2], max_tokens=20))
    scene.step()
    scene.scheduler.add(core_request("long", list(range(30)), max_tokens=2))
    counts = []
    for _ in range(5):
        scene.step()
        counts.append(scene.plan.count.tolist())
    assert counts == [[1, 7], [1, 7], [1, 7], [1, 7], [1, 2]]
    scene.run()
    assert len(scene.tokens("short")) == 20


def test_nobody_waits_for_a_file_or_a_load(
    core_request: MakeRequest, simulated_runner: Callable[..., Any]
) -> None:
    scene = Scene(simulated_runner)
    scene.hold_back = {1}
    scene.scheduler.add(core_request("adapter", [1, 2], adapter=1))
    scene.scheduler.add(core_request("base", [1, 2], arrival_time=1.0))
    scene.step()
    assert scene.plan.count.tolist() == [2], "the base request runs although its elder resolves"
    scene.hold_back = set()
    scene.step()
    assert [load.key for load in scene.plan.commands.loads] == ["key1"]
    assert scene.plan.count.tolist() == [1], "the step that loads serves the others"
    scene.step()
    assert sorted(scene.plan.count.tolist()) == [1, 2], "the next one serves the adapter too"


def test_requests_for_resident_adapters_do_not_starve_an_older_one(
    core_request: MakeRequest, simulated_runner: Callable[..., Any]
) -> None:
    scene = Scene(simulated_runner, rows=2, max_loras=1)
    scene.scheduler.add(core_request("a0", [1, 2], adapter=1, max_tokens=10))
    scene.step()
    scene.scheduler.add(core_request("b", [1, 2], adapter=2, arrival_time=1.0))
    for i in range(1, 9):
        scene.scheduler.add(core_request(f"a{i}", [1, 2], adapter=1, arrival_time=1.0 + i))
    finished = []
    while scene.scheduler.has_work:
        before = set(scene.scheduler.requests)
        scene.step()
        finished += sorted(before - set(scene.scheduler.requests))
    assert finished[:2] == ["a0", "b"]


def test_base_requests_pass_one_that_waits_for_adapter_memory(
    core_request: MakeRequest, simulated_runner: Callable[..., Any]
) -> None:
    scene = Scene(simulated_runner, max_loras=1)
    scene.scheduler.add(core_request("a", [1, 2], adapter=1, max_tokens=10))
    scene.scheduler.add(core_request("b", [1, 2], adapter=2, arrival_time=1.0))
    scene.scheduler.add(core_request("base", [1, 2], arrival_time=2.0, max_tokens=3))
    for _ in range(4):
        scene.step()
    assert len(scene.tokens("base")) == 3
    assert "b" not in scene.outputs


def test_the_youngest_gives_way_when_blocks_run_out(
    core_request: MakeRequest, simulated_runner: Callable[..., Any]
) -> None:
    scene = Scene(simulated_runner, blocks=12)
    for i in range(4):
        message = core_request(f"r{i}", [i] * 8, max_tokens=24, arrival_time=float(i))
        scene.scheduler.add(message)
    requests = list(scene.scheduler.requests.values())
    scene.run()
    preemptions = [request.num_preemptions for request in requests]
    assert preemptions[0] == 0
    assert preemptions[3] >= 2
    assert all(len(scene.tokens(f"r{i}")) == 24 for i in range(4))
    assert scene.outputs["r3"][-1].events is not None
    assert scene.outputs["r3"][-1].events.num_preemptions == preemptions[3]


@pytest.mark.parametrize(
    ("first", "second", "keys", "cached"),
    [
        (None, None, {}, 16),
        (1, 1, {}, 16),
        (None, 1, {}, 0),
        (1, 2, {}, 0),
        (1, 2, {1: "same", 2: "same"}, 16),
    ],
)
def test_blocks_are_shared_by_content_and_mix(
    core_request: MakeRequest,
    simulated_runner: Callable[..., Any],
    first: int | None,
    second: int | None,
    keys: dict[int, str],
    cached: int,
) -> None:
    scene = Scene(simulated_runner, keys=keys)
    prompt = list(range(18))
    scene.scheduler.add(core_request("first", prompt, adapter=first))
    scene.run()
    scene.scheduler.add(core_request("second", prompt, adapter=second))
    scene.run()
    assert scene.cached("first") == 0
    assert scene.cached("second") == cached
    assert (scene.tokens("first") == scene.tokens("second")) == bool(cached)


def test_a_prompt_that_is_wholly_cached_still_runs_its_last_token(
    core_request: MakeRequest, simulated_runner: Callable[..., Any]
) -> None:
    scene = Scene(simulated_runner)
    for name in ("first", "second"):
        scene.scheduler.add(core_request(name, list(range(16)), max_tokens=1))
        scene.run()
    assert scene.cached("second") == 12
    assert scene.runner.tokens_run == 16 + 4


def test_priority_goes_before_arrival(
    core_request: MakeRequest, simulated_runner: Callable[..., Any]
) -> None:
    scene = Scene(simulated_runner, rows=1)
    scene.scheduler.add(core_request("late", [1], arrival_time=1.0, max_tokens=1))
    scene.scheduler.add(core_request("early", [1], arrival_time=0.0, max_tokens=1))
    scene.scheduler.add(core_request("urgent", [1], arrival_time=2.0, priority=-1, max_tokens=1))
    scene.run()
    assert list(scene.outputs) == ["urgent", "early", "late"]


def test_an_abort_gives_everything_back_at_once_and_says_nothing(
    core_request: MakeRequest, simulated_runner: Callable[..., Any]
) -> None:
    scene = Scene(simulated_runner, rows=2)
    for name in ("runs", "stays", "waits"):
        scene.scheduler.add(core_request(name, [1, 2], adapter=1))
    scene.step()
    scene.step()
    for name in ("runs", "waits", "never"):
        scene.scheduler.abort(name)
    assert list(scene.scheduler.requests) == ["stays"]
    scene.run()
    assert not any(o.finish_reason == "abort" for told in scene.outputs.values() for o in told)
    assert len(scene.tokens("stays")) == 8
    assert scene.scheduler.pool.num_free == scene.scheduler.pool.num_blocks
    assert scene.store.forget(scene.key(1)), "no lease is left"


def test_after_mending_the_device_starts_empty_and_requests_go_on(
    core_request: MakeRequest, simulated_runner: Callable[..., Any]
) -> None:
    def answer(breaks: bool) -> list[int]:
        scene = Scene(simulated_runner)
        scheduler = scene.scheduler
        scheduler.add(core_request("a", [1, 2], adapter=1))
        scene.step()
        scene.step()
        if breaks:
            scheduler.schedule()
            scheduler.mend()
            scheduler.mend()
            commands = scheduler.schedule().commands
            assert commands.reset
            assert [load.key for load in commands.loads] == [scene.key(1)]
            scheduler.mend()
        scene.run()
        return scene.tokens("a")

    assert answer(True) == answer(False)


def test_a_load_that_fails_ends_the_requests_that_need_it(
    core_request: MakeRequest, simulated_runner: Callable[..., Any]
) -> None:
    scene = Scene(simulated_runner)
    scheduler = scene.scheduler
    for name, adapter in (("bad", 1), ("other", 2), ("base", None)):
        scheduler.add(core_request(name, [1, 2], adapter=adapter))
    for request in scheduler.resolving():
        assert request.message.lora is not None
        scheduler.resolved(request, ((scene.key(request.message.lora.lora_int_id), 1.0),))
    plan = scheduler.schedule()
    result = scene.runner.run(plan)
    why = ErrorInfo("AdapterError", "it does not fit")
    loaded = tuple(key for key in result.loaded if key != scene.key(1))
    failed = ((scene.key(1), why),)
    scheduler.commit(plan, dataclasses.replace(result, loaded=loaded, failed_loads=failed))
    assert [(o.request_id, o.error) for o in scheduler.outputs if o.finish_reason] == [("bad", why)]
    scheduler.acknowledge(len(scheduler.outputs))
    scene.run()
    assert len(scene.tokens("other")) == 8
    assert scene.store.forget(scene.key(1))


@pytest.mark.parametrize("module", ["plait.scheduler", "plait.block_pool", "plait_lora.store"])
def test_the_books_need_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
