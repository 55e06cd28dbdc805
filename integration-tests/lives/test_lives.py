"""Random lives of requests: ids that are used again, stops, aborts, adapters, interrupts.

Every request that ends says what the oracle says, no output of an earlier request of the same id
reaches a later one, and at the end nothing is missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import plait
import plait_lora
from plait import RequestOutput, RequestOutputKind
from plait.llm_engine import LLMEngine
from plait_kernels.errors import InputError

FOLDERS = tuple(str(Path(package.__file__ or "").parent) for package in (plait, plait_lora))
NAMES = ("r", "0_r", "s")
PROMPTS = ((3, 1, 4), (2, 7, 1, 8, 2, 8), (9,) * 18)


class Interrupt(KeyboardInterrupt):
    pass


@contextmanager
def interrupted(after: int | None) -> Iterator[None]:
    """Interrupt this thread after so many lines of plait; None: never."""
    if after is None:
        yield
        return
    lines = 0

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == after:
                raise Interrupt
        return line if lines < after else None

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        return line if lines < after and frame.f_code.co_filename.startswith(FOLDERS) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)


@dataclass
class Life:
    """A request: what is right, and what it has said.

    Attributes
    ----------
    right : list[int]
        Tokens of each completion.
    text : str
        Of each completion, what is before a stop string.
    reason : str
    """

    right: list[int]
    text: str
    reason: str
    n: int
    kind: RequestOutputKind
    said: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    is_over: bool = False

    def __post_init__(self) -> None:
        self.said = [[] for _ in range(self.n)]
        self.texts = [""] * self.n

    def take(self, output: RequestOutput) -> None:
        assert output.error is None
        assert not self.is_over
        for completion in output.outputs:
            i = completion.index
            if self.kind is RequestOutputKind.DELTA:
                self.said[i] += completion.token_ids
                self.texts[i] += completion.text
            else:
                self.said[i] = completion.token_ids
                self.texts[i] = completion.text
            assert self.said[i] == self.right[: len(self.said[i])]
            assert self.text.startswith(self.texts[i])
        if output.finished:
            self.is_over = True
            assert self.said == [self.right] * self.n
            assert self.texts == [self.text] * self.n
            if self.kind is not RequestOutputKind.DELTA:
                assert {c.finish_reason for c in output.outputs} == {self.reason}


class Lives(RuleBasedStateMachine):
    world: Any
    make: Callable[[], LLMEngine]
    check: Callable[[LLMEngine], None]
    interrupts: bool
    passed: list[LLMEngine]

    @initialize()
    def start(self) -> None:
        # One that has passed its check is as good as new.
        self.engine = self.passed.pop() if self.passed else self.make()
        self.lives: dict[str, Life] = {}

    def draw_interrupt(self, data: st.DataObject, most: int) -> int | None:
        if not self.interrupts or not data.draw(st.booleans(), "interrupted"):
            return None
        return data.draw(st.integers(1, most), "after so many lines")

    @rule(
        name=st.sampled_from(NAMES),
        prompt=st.sampled_from(PROMPTS),
        length=st.integers(1, 8),
        adapter=st.sampled_from([None, None, 1, 2, 3]),
        n=st.integers(1, 2),
        kind=st.sampled_from(RequestOutputKind),
        stop=st.sampled_from([None, None, 0, 1, 3]),
        data=st.data(),
    )
    def add(
        self,
        name: str,
        prompt: tuple[int, ...],
        length: int,
        adapter: int | None,
        n: int,
        kind: RequestOutputKind,
        stop: int | None,
        data: st.DataObject,
    ) -> None:
        right = self.world.right(adapter, prompt)[:length]
        text, reason = self.world.text(right), "length"
        keywords: dict[str, Any] = {"n": n, "output_kind": kind}
        if stop is not None and stop < length:
            keywords["stop"] = f"w{right[stop]}"
            cut = text.find(keywords["stop"])
            count = next(
                k for k in range(length + 1) if keywords["stop"] in self.world.text(right[:k])
            )
            right, text, reason = right[:count], text[:cut], "stop"
        request = (name, list(prompt), self.world.greedy(length, **keywords))
        handle = self.world.handle(adapter)
        is_there = name in self.lives
        try:
            with interrupted(self.draw_interrupt(data, 250)):
                self.engine.add_request(*request, lora_request=handle)
            assert not is_there, "an id in use is refused"
        except InputError:
            if not is_there:
                raise
            return
        except Interrupt:
            if is_there:
                return
            # All or nothing: if its id is in use, it is there as it was asked for.
            with suppress(InputError):
                self.engine.add_request(*request, lora_request=handle)
        self.lives[name] = Life(right, text, reason, n, kind)

    @rule(count=st.integers(1, 8), data=st.data())
    def step(self, count: int, data: st.DataObject) -> None:
        after = self.draw_interrupt(data, 2500)
        for _ in range(count):
            try:
                with interrupted(after):
                    outputs = self.engine.step()
            except Interrupt:
                continue
            finally:
                after = None
            for output in outputs:
                life = self.lives[output.request_id]
                life.take(output)
                if life.is_over:
                    del self.lives[output.request_id]

    @rule(name=st.sampled_from(NAMES), data=st.data())
    def abort(self, name: str, data: st.DataObject) -> None:
        is_there = name in self.lives
        try:
            with interrupted(self.draw_interrupt(data, 150)):
                outputs = self.engine.abort_request(name)
            assert [output.request_id for output in outputs] == [name] * is_there
            assert all(output.finished for output in outputs)
        except Interrupt:
            self.engine.abort_request(name)
        self.lives.pop(name, None)

    @rule(
        adapter=st.integers(1, 3),
        what=st.sampled_from(["add", "remove", "pin", "list"]),
        data=st.data(),
    )
    def adapters(self, adapter: int, what: str, data: st.DataObject) -> None:
        calls: dict[str, Callable[[], Any]] = {
            "add": lambda: self.engine.add_lora(self.world.handle(adapter)),
            "remove": lambda: self.engine.remove_lora(adapter),
            "pin": lambda: self.engine.pin_lora(adapter) and self.engine.remove_lora(adapter),
            "list": self.engine.list_loras,
        }
        try:
            with interrupted(self.draw_interrupt(data, 1500 if what == "add" else 100)):
                calls[what]()
        except InputError:
            assert what in ("add", "pin"), "host memory may be full, and an id unknown"
        except Interrupt:
            self.engine.remove_lora(adapter)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(100):
            if not self.engine.has_unfinished_requests():
                break
            for output in self.engine.step():
                self.lives[output.request_id].take(output)
                if output.finished:
                    del self.lives[output.request_id]
        assert not self.lives, "every request ends"
        self.check(self.engine)
        for adapter in self.engine.list_loras():
            self.engine.remove_lora(adapter)
        self.passed.append(self.engine)


@pytest.mark.parametrize("interrupts", [False, True])
def test_lives(
    world: Any,
    make_engine: Callable[[], LLMEngine],
    check_nothing_leaked: Callable[[LLMEngine], None],
    interrupts: bool,
) -> None:
    class Machine(Lives):
        pass

    Machine.world = world
    Machine.make = staticmethod(make_engine)
    Machine.check = staticmethod(check_nothing_leaked)
    Machine.interrupts = interrupts
    Machine.passed = []
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=20, stateful_step_count=25, deadline=None),
    )
