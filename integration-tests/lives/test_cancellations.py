"""The asynchronous engine, whose users are cancelled at any time, once or again and again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from plait import AsyncLLMEngine, EngineArgs, LoRARequest, RequestOutput, RequestOutputKind
from plait.llm_engine import LLMEngine
from plait_kernels.errors import InputError, PlaitError

PROMPT = (3, 1, 4, 1, 5)
OTHER = (2, 7, 1, 8, 2)

Scene = Callable[[AsyncLLMEngine], Coroutine[Any, Any, None]]


@pytest.fixture
def on_engine(
    engine_args: Callable[..., EngineArgs], check_nothing_leaked: Callable[[LLMEngine], None]
) -> Callable[[Scene], None]:
    """Run a coroutine function on an engine in a loop of its own; nothing may leak."""

    def run(scene: Scene) -> None:
        engine = LLMEngine.from_engine_args(engine_args())

        async def main() -> None:
            user = AsyncLLMEngine(engine)
            try:
                await asyncio.wait_for(scene(user), timeout=60)
                await idle(user)
            finally:
                user.shutdown()

        asyncio.run(main())
        check_nothing_leaked(engine)

    return run


async def idle(user: AsyncLLMEngine) -> None:
    """Wait until everything that was asked of the engine is done."""
    if not user.errored:
        await user.list_loras()
        while user.engine.has_unfinished_requests():
            await asyncio.sleep(0.005)


async def outputs_of(
    user: AsyncLLMEngine,
    world: Any,
    name: str,
    length: int,
    prompt: tuple[int, ...] = PROMPT,
    adapter: int | None = None,
    **params: Any,
) -> list[RequestOutput]:
    stream = user.generate(
        {"prompt_token_ids": list(prompt)},
        world.greedy(length, **params),
        name,
        lora_request=world.handle(adapter),
    )
    return [output async for output in stream]


async def tokens_of(*args: Any, **keywords: Any) -> list[int]:
    return list((await outputs_of(*args, **keywords))[-1].outputs[0].token_ids)


async def cancel_until_done(task: asyncio.Task[Any]) -> None:
    """Cancel as some libraries do: again in each turn of the loop, until the task is over."""
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)


@pytest.mark.parametrize("times", ["once", "twice", "until done"])
@pytest.mark.parametrize("adapter", [None, 1])
def test_a_cancelled_request_is_over(
    on_engine: Callable[[Scene], None], world: Any, times: str, adapter: int | None
) -> None:
    async def scene(user: AsyncLLMEngine) -> None:
        for turn in range(8):
            tasks = [
                asyncio.create_task(tokens_of(user, world, f"r{i}", 12, adapter=adapter))
                for i in range(5)
            ]
            # Before it is tokenized, added, stepped, …
            for _ in range(turn):
                await asyncio.sleep(0 if turn % 2 else 0.001)
            for task in tasks:
                if times == "until done":
                    await cancel_until_done(task)
                    continue
                task.cancel()
                if times == "twice":
                    await asyncio.sleep(0)
                    task.cancel()
            # Its id is free at once.
            again = await asyncio.gather(
                *(tokens_of(user, world, f"r{i}", 3, OTHER) for i in range(5)),
                return_exceptions=times == "once",
            )
            await asyncio.wait(tasks)
            if times != "once":
                assert again == [world.right(None, OTHER)[:3]] * 5
            await idle(user)
            assert user.get_num_unfinished_requests() == 0

    on_engine(scene)


def test_leaving_a_stream_ends_its_request(on_engine: Callable[[Scene], None], world: Any) -> None:
    async def scene(user: AsyncLLMEngine) -> None:
        for _ in range(5):
            stream = user.generate("w1 w2", world.greedy(12), "left")
            async for _ in stream:
                break
            await stream.aclose()
            assert await tokens_of(user, world, "left", 2) == world.right(None, PROMPT)[:2]

    on_engine(scene)


@pytest.mark.parametrize("kind", list(RequestOutputKind))
@pytest.mark.parametrize("waits", [0, 1, 4, 8])
def test_an_abort_gives_a_last_output(
    on_engine: Callable[[Scene], None], world: Any, kind: RequestOutputKind, waits: int
) -> None:
    async def scene(user: AsyncLLMEngine) -> None:
        await user.pause_generation(mode="keep")
        task = asyncio.create_task(
            outputs_of(user, world, "r", 12, n=2, output_kind=kind, adapter=2)
        )
        await asyncio.sleep(0)
        if waits:
            await user.resume_generation()
            await asyncio.sleep(0.003 * waits)
        await user.abort("r")
        again = asyncio.create_task(tokens_of(user, world, "r", 2))
        outputs = await task
        last = outputs[-1]
        assert last.request_id == "r"
        assert last.finished
        reasons = {completion.finish_reason for completion in last.outputs}
        assert reasons <= {"abort"} or waits == 8
        texts, tokens = ["", ""], [list[int](), list[int]()]
        for output in outputs:
            for completion in output.outputs:
                i, delta = completion.index, kind is RequestOutputKind.DELTA
                texts[i] = texts[i] * delta + completion.text
                tokens[i] = tokens[i] * delta + list(completion.token_ids)
        right = world.right(2, PROMPT)
        for i in range(2):
            assert tokens[i] == right[: len(tokens[i])]
            assert texts[i] == world.text(tokens[i])
        await user.resume_generation()
        assert await again == world.right(None, PROMPT)[:2]
        await user.abort(["r", "never"])

    on_engine(scene)


def test_a_shutdown_ends_those_who_wait_with_an_error_of_the_project(
    engine_args: Callable[..., EngineArgs], world: Any
) -> None:
    async def scene(user: AsyncLLMEngine) -> None:
        assert user.is_running
        await user.pause_generation(mode="keep")
        tasks = [asyncio.create_task(tokens_of(user, world, str(i), 12)) for i in range(3)]
        await asyncio.sleep(0.02)
        tasks += [asyncio.create_task(tokens_of(user, world, f"late {i}", 12)) for i in range(3)]
        tasks.append(asyncio.create_task(user.add_lora(world.handle(1))))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        user.shutdown()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, PlaitError) or error is True, repr(error)
        assert user.errored
        assert not user.is_running
        calls = [
            tokens_of(user, world, "x", 1),
            user.abort("0"),
            user.list_loras(),
            user.add_lora(world.handle(1)),
            user.pause_generation(),
            user.resume_generation(),
            user.reset_prefix_cache(),
            user.check_health(),
        ]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(error, PlaitError), repr(error)
        user.shutdown()

    asyncio.run(scene(AsyncLLMEngine(LLMEngine.from_engine_args(engine_args()))))


def test_a_loop_that_is_closed_leaves_nothing_to_the_next_one(
    engine_args: Callable[..., EngineArgs],
    check_nothing_leaked: Callable[[LLMEngine], None],
    world: Any,
) -> None:
    user = AsyncLLMEngine(LLMEngine.from_engine_args(engine_args()))

    async def leave() -> None:
        task = asyncio.create_task(tokens_of(user, world, "r", 12))
        await asyncio.sleep(0.01)
        assert not task.done() or len(task.result()) == 12

    async def come() -> None:
        assert await tokens_of(user, world, "r", 4, OTHER) == world.right(None, OTHER)[:4]
        await idle(user)

    for _ in range(3):
        asyncio.run(leave())
        asyncio.run(come())
    user.shutdown()
    check_nothing_leaked(user.engine)


def test_pauses(on_engine: Callable[[Scene], None], world: Any) -> None:
    async def scene(user: AsyncLLMEngine) -> None:
        right = world.right(None, PROMPT)[:12]
        task = asyncio.create_task(outputs_of(user, world, "kept", 12))
        await asyncio.sleep(0.01)
        await user.pause_generation(mode="keep")
        assert await user.is_paused()
        held = asyncio.create_task(tokens_of(user, world, "held", 2))
        await asyncio.sleep(0.05)
        assert not held.done()
        await user.resume_generation()
        assert not await user.is_paused()
        assert (await task)[-1].outputs[0].token_ids == right
        assert await held == right[:2]

        task = asyncio.create_task(outputs_of(user, world, "waited for", 12))
        await asyncio.sleep(0.01)
        await user.pause_generation(mode="wait")
        assert not user.engine.has_unfinished_requests()
        assert (await task)[-1].outputs[0].token_ids == right
        with pytest.raises(PlaitError, match="paused"):
            await tokens_of(user, world, "refused", 2)
        await user.resume_generation()

        task = asyncio.create_task(outputs_of(user, world, "aborted", 12))
        await asyncio.sleep(0.01)
        await user.pause_generation()
        last = (await task)[-1].outputs[0]
        assert last.finish_reason in ("abort", "length")
        assert last.token_ids == right[: len(last.token_ids)]
        with pytest.raises(PlaitError, match="paused"):
            await tokens_of(user, world, "refused", 2)
        await user.resume_generation()
        assert await tokens_of(user, world, "next", 2) == right[:2]
        with pytest.raises(InputError, match="mode"):
            await user.pause_generation(mode="other")  # type: ignore[arg-type]

    on_engine(scene)


def test_no_step_runs_when_a_pause_has_returned(
    on_engine: Callable[[Scene], None], world: Any
) -> None:
    async def scene(user: AsyncLLMEngine) -> None:
        step, running = user.engine.step, threading.Event()

        def watched() -> list[RequestOutput]:
            running.set()
            try:
                return step()
            finally:
                running.clear()

        user.engine.step = watched  # type: ignore[method-assign]
        for _ in range(5):
            task = asyncio.create_task(tokens_of(user, world, "r", 12))
            await asyncio.sleep(0.005)
            await user.pause_generation(mode="keep")
            for _ in range(20):
                assert not running.is_set()
                await asyncio.sleep(0)
            await user.resume_generation()
            assert len(await task) == 12

    on_engine(scene)


def test_a_long_prompt_holds_up_nobody(on_engine: Callable[[Scene], None], world: Any) -> None:
    async def scene(user: AsyncLLMEngine) -> None:
        tokenizer = user.get_tokenizer()
        begun, may_end = threading.Event(), threading.Event()
        call = type(tokenizer).__call__

        def slow(self: Any, text: str, **keywords: Any) -> Any:
            if text == "w1 w2 w3":
                begun.set()
                assert may_end.wait(30)
            return call(self, text, **keywords)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(tokenizer), "__call__", slow)
            long = asyncio.create_task(anext(user.generate("w1 w2 w3", world.greedy(1), "long")))
            while not begun.is_set():
                await asyncio.sleep(0.001)
            assert await tokens_of(user, world, "short", 3) == world.right(None, PROMPT)[:3]
            short = [o async for o in user.generate("w3 w1 w4 w1 w5", world.greedy(3), "text")]
            assert short[-1].outputs[0].token_ids == world.right(None, PROMPT)[:3]
            assert not long.done()
            may_end.set()
            output = await long
            assert output.outputs[0].token_ids == world.right(None, (1, 2, 3))[:1]

    on_engine(scene)


class Users(RuleBasedStateMachine):
    """Users come, wait, leave, are cancelled and abort, under few ids."""

    world: Any
    make: Callable[[], LLMEngine]
    check: Callable[[LLMEngine], None]
    passed: list[LLMEngine]

    @initialize()
    def start(self) -> None:
        # One that has passed its check is as good as new.
        self.user = AsyncLLMEngine(self.passed.pop() if self.passed else self.make())
        self.loop = asyncio.new_event_loop()
        self.tasks: dict[str, tuple[asyncio.Task[list[int]], list[int]]] = {}
        self.over: list[tuple[asyncio.Task[list[int]], list[int]]] = []
        self.adding: list[asyncio.Task[bool]] = []

    def turn(self, seconds: float = 0) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule(
        name=st.sampled_from(["r", "s", "t", "u"]),
        prompt=st.sampled_from([PROMPT, OTHER]),
        length=st.integers(1, 12),
        adapter=st.sampled_from([None, None, 1, 2, 3]),
    )
    def come(self, name: str, prompt: tuple[int, ...], length: int, adapter: int | None) -> None:
        if name in self.tasks:
            if not self.tasks[name][0].done():
                return
            self.over.append(self.tasks.pop(name))
        call = tokens_of(self.user, self.world, name, length, prompt, adapter)
        right = self.world.right(adapter, prompt)[:length]
        self.tasks[name] = (self.loop.create_task(call), right)

    @rule(seconds=st.sampled_from([0, 0, 0, 0.001, 0.01]))
    def wait(self, seconds: float) -> None:
        self.turn(seconds)

    @rule(data=st.data(), times=st.integers(1, 3))
    def cancel(self, data: st.DataObject, times: int) -> None:
        if self.tasks:
            name = data.draw(st.sampled_from(sorted(self.tasks)))
            for _ in range(times):
                self.tasks[name][0].cancel()
                self.turn()

    @rule(data=st.data(), cancelled=st.booleans())
    def abort(self, data: st.DataObject, cancelled: bool) -> None:
        if self.tasks:
            name = data.draw(st.sampled_from(sorted(self.tasks)))
            task = self.loop.create_task(self.user.abort(name))
            self.turn()
            if cancelled:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait([task]))

    @rule(adapter=st.integers(1, 3), cancelled=st.booleans())
    def add_lora(self, adapter: int, cancelled: bool) -> None:
        handle: LoRARequest = self.world.handle(adapter)
        task = self.loop.create_task(self.user.add_lora(handle))
        self.adding.append(task)
        self.turn()
        if cancelled:
            task.cancel()

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.over += self.tasks.values()
        tasks = [task for task, _ in self.over] + self.adding
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=30))
        for task, right in self.over:
            if not task.cancelled():
                answer = task.result()
                assert answer == right[: len(answer)]
        for adding in self.adding:
            assert adding.cancelled() or isinstance(adding.exception(), InputError | None)
        self.loop.run_until_complete(asyncio.wait_for(idle(self.user), 30))
        self.loop.close()
        self.user.shutdown()
        self.check(self.user.engine)
        self.passed.append(self.user.engine)


def test_users(
    world: Any,
    engine_args: Callable[..., EngineArgs],
    check_nothing_leaked: Callable[[LLMEngine], None],
) -> None:
    Users.world = world
    Users.make = staticmethod(lambda: LLMEngine.from_engine_args(engine_args()))
    Users.check = staticmethod(check_nothing_leaked)
    Users.passed = []
    run_state_machine_as_test(
        Users, settings=settings(max_examples=15, stateful_step_count=25, deadline=None)
    )
