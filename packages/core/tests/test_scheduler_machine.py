"""The scheduler under any sequence of events: every request ends as if it had run alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plait.block_pool import BlockPool
from plait.messages import CoreOutput, CoreRequest
from plait.plan import StepPlan, StepResult
from plait.request import RequestState
from plait.scheduler import Scheduler, SchedulerConfig
from plait_kernels.errors import AdapterError
from plait_lora.identity import AdapterKey
from plait_lora.store import AdapterStore

BLOCK_SIZE = 4
MAX_MODEL_LEN = 24
NUM_CHUNKS = 3
ADAPTERS = {1: (1,), 2: (1, 1), 3: (1,), 4: (1, 1, 1), 5: (4,)}
"""Runs of chunks; the last never fits."""


class SchedulerMachine(RuleBasedStateMachine):
    """Requests come, are aborted and run, in a pool too small for all of them."""

    make_request: Callable[..., CoreRequest]
    make_runner: Callable[[int, int, int], Any]
    next_token: Callable[[Any, Any], int]

    @initialize(
        rows=st.integers(1, 4),
        budget=st.integers(1, 12),
        blocks=st.integers(6, 12),
        caching=st.booleans(),
        max_loras=st.sampled_from([None, 1, 2]),
    )
    def start(
        self, rows: int, budget: int, blocks: int, caching: bool, max_loras: int | None
    ) -> None:
        self.pool = BlockPool(blocks, enable_caching=caching)
        self.store = AdapterStore(NUM_CHUNKS, num_slots=3, max_loras=max_loras)
        for adapter, runs in ADAPTERS.items():
            self.store.register(AdapterKey(f"key{adapter}"), runs)
        config = SchedulerConfig(rows, budget, MAX_MODEL_LEN, BLOCK_SIZE)
        self.scheduler = Scheduler(config, self.pool, self.store)
        self.runner = self.make_runner(rows, blocks, BLOCK_SIZE)
        self.given: dict[str, CoreRequest] = {}
        self.tokens: dict[str, list[int]] = {}
        self.reason: dict[str, str] = {}
        self.unresolved: set[str] = set()

    @rule(
        prompt=st.lists(st.integers(0, 2), min_size=1, max_size=MAX_MODEL_LEN - 1),
        max_tokens=st.integers(1, 12),
        adapter=st.sampled_from([None, None, 1, 2, 3, 4, 5]),
        stop=st.lists(st.integers(0, 49), max_size=6),
        priority=st.integers(0, 1),
        salt=st.sampled_from([None, None, "s"]),
        slow=st.booleans(),
    )
    def add(
        self,
        prompt: list[int],
        max_tokens: int,
        adapter: int | None,
        stop: list[int],
        priority: int,
        salt: str | None,
        slow: bool,
    ) -> None:
        request_id = f"r{len(self.given)}"
        message = self.make_request(
            request_id,
            prompt,
            max_tokens=max_tokens,
            adapter=adapter,
            priority=priority,
            arrival_time=float(len(self.given)),
            stop_token_ids=stop,
            cache_salt=salt,
        )
        self.scheduler.add(message)
        self.given[request_id] = message
        self.tokens[request_id] = []
        if slow and adapter is not None:
            self.unresolved.add(request_id)

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        if self.given:
            request_id = data.draw(st.sampled_from(sorted(self.given)))
            self.scheduler.abort(request_id)
            self.reason.setdefault(request_id, "abort")

    @rule()
    def files_arrive(self) -> None:
        self.unresolved.clear()

    @rule(data=st.data())
    def file_is_bad(self, data: st.DataObject) -> None:
        resolving = self.scheduler.resolving()
        if resolving:
            request = data.draw(st.sampled_from(resolving))
            self.scheduler.fail(request, AdapterError("bad"))
            self.take_all()

    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            plan = self.plan()
            self.commit(plan, self.runner.run(plan))

    @rule()
    def overlapped_steps(self) -> None:
        """Plan a step before the result of the one before it is known."""
        first = self.plan()
        second = self.plan()
        for plan, result in [(p, self.runner.run(p)) for p in (first, second)]:
            self.commit(plan, result)

    @rule(in_flight=st.integers(1, 2), reached=st.booleans())
    def a_step_breaks(self, in_flight: int, reached: bool) -> None:
        """It may have written to the device before it broke."""
        plans = [self.plan() for _ in range(in_flight)]
        if reached:
            self.runner.run(plans[0])
        self.scheduler.mend()

    def plan(self) -> StepPlan:
        for request in self.scheduler.resolving():
            if request.id not in self.unresolved and request.message.lora is not None:
                key = AdapterKey(f"key{request.message.lora.lora_int_id}")
                self.scheduler.resolved(request, ((key, 1.0),))
        plan = self.scheduler.schedule()
        assert plan.num_tokens <= self.scheduler.config.max_num_batched_tokens
        return plan

    def commit(self, plan: StepPlan, result: StepResult) -> None:
        self.scheduler.commit(plan, result)
        self.take_all()

    def take_all(self) -> None:
        for output in self.scheduler.outputs:
            self.take(output)
        self.scheduler.acknowledge(len(self.scheduler.outputs))

    def take(self, output: CoreOutput) -> None:
        assert output.request_id not in self.reason, "a finished request says nothing more"
        self.tokens[output.request_id] += output.new_token_ids
        if output.finish_reason is not None:
            self.reason[output.request_id] = output.finish_reason

    @invariant()
    def books_agree(self) -> None:
        scheduler = self.scheduler
        ids = {r.id for r in scheduler.waiting} | {r.id for r in scheduler.running}
        assert ids == set(scheduler.requests)
        assert len(scheduler.waiting) + len(scheduler.running) == len(ids)
        rows = [request.row for request in scheduler.running]
        assert len(set(rows)) == len(rows)
        held = {block for r in scheduler.requests.values() for block in r.blocks}
        assert self.pool.num_free == self.pool.num_blocks - len(held)
        for request in scheduler.waiting:
            assert not request.blocks
            assert request.row == -1
            assert request.state is not RequestState.RUNNING

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.unresolved.clear()
        steps = 0
        while self.scheduler.has_work:
            self.step(1)
            steps += 1
            # Each request takes at most its tokens, and a few steps for its adapter; preemptions
            # can multiply that, so the bound is generous: it catches what never ends.
            assert steps < 400 * (1 + len(self.given)), "a request never ends"
        assert set(self.reason) == set(self.given), "no request is lost"
        assert self.pool.num_free == self.pool.num_blocks
        for request_id, message in self.given.items():
            self.check(message, self.tokens[request_id], self.reason[request_id])
        for adapter in ADAPTERS:
            assert self.store.forget(AdapterKey(f"key{adapter}")), "a lease was leaked"
        assert self.store.num_free_chunks == NUM_CHUNKS

    def check(self, message: CoreRequest, tokens: list[int], reason: str) -> None:
        adapter = message.lora.lora_int_id if message.lora else None
        mix = () if adapter is None else ((AdapterKey(f"key{adapter}"), 1.0),)
        history = list(message.prompt_token_ids)
        for token in tokens:
            assert token == self.next_token(history, mix)
            history.append(token)
        stops = message.params.stop_token_ids or []
        assert not any(token in stops for token in tokens[:-1])
        limit = message.params.max_tokens
        assert limit is not None
        if reason == "stop":
            assert tokens[-1] in stops
        elif reason == "length":
            assert len(tokens) == limit or len(history) == MAX_MODEL_LEN
        elif reason == "error":
            assert adapter is not None
            assert not tokens
        else:
            assert reason == "abort"


def test_scheduler(
    core_request: Callable[..., CoreRequest],
    simulated_runner: Callable[[int, int, int], Any],
    simulated_next_token: Callable[[Any, Any], int],
) -> None:
    class Machine(SchedulerMachine):
        make_request = staticmethod(core_request)
        make_runner = staticmethod(simulated_runner)
        next_token = staticmethod(simulated_next_token)

    case = Machine.TestCase
    case.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
    case("runTest").runTest()
