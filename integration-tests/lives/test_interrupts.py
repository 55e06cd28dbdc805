"""An interrupt at any statement of any call: nothing is lost, nothing is wrong, nothing leaks."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import plait
import plait_lora
from plait import RequestOutput, RequestOutputKind, SamplingParams
from plait.llm_engine import LLMEngine
from plait_kernels.errors import InputError

FOLDERS = tuple(str(Path(package.__file__ or "").parent) for package in (plait, plait_lora))

Place = tuple[CodeType, int]


class Interrupt(KeyboardInterrupt):
    """Ctrl-C, at a place of our choice."""


@dataclass
class Interrupter:
    """Counts the lines of plait that this thread runs, and raises before one of them.

    Attributes
    ----------
    before : tuple[Place, int] | int | None
        A line, and at which time that it is reached; or how many lines of any kind run before.
    """

    before: tuple[Place, int] | int | None = None
    hits: Counter[Place] = field(default_factory=Counter)
    lines: int = 0
    raised: bool = False
    _ours: dict[CodeType, bool] = field(default_factory=dict)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        ours = self._ours.get(code)
        if ours is None:
            ours = self._ours[code] = code.co_filename.startswith(FOLDERS)
        return self._line if ours and not self.raised else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and not self.raised:
            place = (frame.f_code, frame.f_lineno)
            self.hits[place] += 1
            self.lines += 1
            if self.before == self.lines - 1 or self.before == (place, self.hits[place]):
                self.raised = True
                raise Interrupt
        return self._line


@dataclass
class Wanted:
    """A request, and what it has said."""

    prompt: tuple[int, ...]
    right: list[int]
    params: SamplingParams
    adapter: int | None = None
    tokens: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ends: list[str | None] = field(default_factory=list)

    def take(self, output: RequestOutput) -> None:
        assert output.error is None
        assert not self.ends, "a request ends once"
        delta = self.params.output_kind is RequestOutputKind.DELTA
        for completion in output.outputs:
            tokens = [*self.tokens, *completion.token_ids] if delta else completion.token_ids
            if completion.index == 0:
                self.tokens = tokens
                self.texts = [*self.texts, completion.text] if delta else [completion.text]
            assert tokens == self.right[: len(tokens)]
        if output.finished:
            self.ends = [completion.finish_reason for completion in output.outputs]

    def check_end(self, text: str) -> None:
        assert self.tokens == self.right
        assert "".join(self.texts) == text
        assert set(self.ends) <= {"length", "stop"}


class Scene:
    """A user who is interrupted, and goes on."""

    def __init__(self, engine: LLMEngine, world: Any) -> None:
        self.engine = engine
        self.world = world
        self.wanted: dict[str, Wanted] = {}
        self.ended: list[Wanted] = []

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Call until it is not interrupted."""
        for _ in range(3):
            try:
                return function(*arguments, **keywords)
            except Interrupt:
                continue
        raise AssertionError

    def add(
        self, name: str, prompt: tuple[int, ...], length: int, adapter: int | None, **params: Any
    ) -> None:
        right = self.world.right(adapter, prompt)[:length]
        chosen = self.world.greedy(length, **params)
        self.wanted[name] = Wanted(prompt, right, chosen, adapter)
        handle = self.world.handle(adapter)
        try:
            self.engine.add_request(name, list(prompt), chosen, lora_request=handle)
        except Interrupt:
            # All or nothing: if it is there, it is there as it was asked for.
            with contextlib.suppress(InputError):
                self.engine.add_request(name, list(prompt), chosen, lora_request=handle)

    def step(self) -> None:
        try:
            outputs = self.engine.step()
        except Interrupt:
            return
        for output in outputs:
            wanted = self.wanted[output.request_id]
            wanted.take(output)
            if output.finished:
                self.ended.append(self.wanted.pop(output.request_id))

    def abort(self, name: str) -> None:
        self.call(self.engine.abort_request, name)
        self.wanted.pop(name, None)

    def finish(self) -> None:
        steps = 0
        while self.call(self.engine.has_unfinished_requests):
            self.step()
            steps += 1
            assert steps < 400, "a request never ends"
        assert not self.wanted, "every request ends"
        for wanted in self.ended:
            wanted.check_end(self.world.text(wanted.right))


def live_with_known_adapters(scene: Scene) -> None:
    """Add, step and abort until all is done; adapters are loaded, not read."""
    scene.add("base", (3, 1, 4, 1, 5), 3, None, output_kind=RequestOutputKind.DELTA, logprobs=1)
    scene.add("one", (3, 1, 4, 1, 5), 3, 1, n=2)
    scene.add("gone", (2, 7, 1, 8), 4, 2, prompt_logprobs=1)
    scene.step()
    scene.step()
    scene.abort("gone")
    scene.add("gone", (8, 8), 2, 2, output_kind=RequestOutputKind.FINAL_ONLY)
    scene.finish()


def live_with_reads(scene: Scene) -> None:
    """Read adapters, by a call and beside steps, and give them up."""
    engine, world = scene.engine, scene.world
    scene.call(engine.remove_lora, 1)
    scene.call(engine.add_lora, world.handle(1))
    scene.add("one", (3, 1, 4), 2, 1)
    scene.add("three", (2, 7), 2, 3)
    scene.step()
    scene.call(engine.remove_lora, 1)
    scene.finish()
    scene.call(engine.remove_lora, 3)


Life = Callable[[Scene], None]


@pytest.fixture(scope="module")
def engine(make_engine: Callable[[], LLMEngine]) -> LLMEngine:
    return make_engine()


def places_of(live: Life, engine: LLMEngine, world: Any) -> list[tuple[Place, int]]:
    """Return every line of plait that a life runs, with how often it does."""
    watched = Interrupter()
    with watched.watching():
        live(Scene(engine, world))
    order = sorted(watched.hits, key=lambda place: (place[0].co_filename, place[1]))
    return [(place, watched.hits[place]) for place in order]


@pytest.mark.parametrize(("live", "stride"), [(live_with_known_adapters, 7), (live_with_reads, 31)])
def test_a_life_goes_on_after_an_interrupt_at_any_statement(
    engine: LLMEngine,
    world: Any,
    check_nothing_leaked: Callable[[LLMEngine], None],
    live: Life,
    stride: int,
) -> None:
    """Once at each of many lines; each time it is reached is as good as the others."""
    for adapter in (1, 2):
        engine.add_lora(world.handle(adapter))
    live(Scene(engine, world))
    places = places_of(live, engine, world)
    reached = 0
    for i in range(0, len(places), stride):
        place, times = places[i]
        interrupter = Interrupter((place, 1 + i % times))
        with interrupter.watching():
            live(Scene(engine, world))
        reached += interrupter.raised
    # Files are read by threads, so lives differ a little.
    assert reached > len(places) // stride // 2
    check_nothing_leaked(engine)
