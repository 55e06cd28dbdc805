"""What is enqueued is told once, in order and right, whatever is called in between."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from plait import LLM, SamplingParams
from plait_kernels.errors import InputError, RequestsFailed

GREEDY = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
PROMPTS = ([3, 7, 11], [2, 4, 6, 8], [9, 9])
BAD = [999_999]

which = st.lists(st.sampled_from([0, 1, 2, None]), min_size=1, max_size=3)
"""Prompts by number; None is a bad one."""


def machine(llm: LLM, answers: dict[int, list[int]], ids: itertools.count[int]) -> type[Any]:
    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.queued: list[tuple[str, int]] = []
            self.aborted: set[str] = set()
            self.asleep = False

        @rule(numbers=which)
        def enqueue(self, numbers: list[int | None]) -> None:
            prompts = [BAD if number is None else PROMPTS[number] for number in numbers]
            if None in numbers:
                with pytest.raises(InputError):
                    llm.enqueue(prompts, GREEDY)
                # Those before the bad one, and the bad one itself, have taken their numbers.
                for _ in range(numbers.index(None) + 1):
                    next(ids)
                return
            names = llm.enqueue(prompts, GREEDY)
            assert names == [str(next(ids)) for _ in numbers]
            self.queued += [
                (name, n) for name, n in zip(names, numbers, strict=True) if n is not None
            ]

        @rule(numbers=which)
        def generate(self, numbers: list[int | None]) -> None:
            prompts = [BAD if number is None else PROMPTS[number] for number in numbers]
            if self.asleep:
                with pytest.raises(InputError, match="sleeps"):
                    llm.generate(prompts, GREEDY, use_tqdm=False)
                return
            names = [str(next(ids)) for _ in numbers]
            try:
                outputs: list[Any] = list(llm.generate(prompts, GREEDY, use_tqdm=False))
            except RequestsFailed as failed:
                outputs = failed.outputs
            except InputError:
                assert numbers == [None]
                return
            assert [output.request_id for output in outputs] == names
            for number, output in zip(numbers, outputs, strict=True):
                assert (output.error is not None) == (number is None)
                if number is not None:
                    assert output.outputs[0].token_ids == answers[number]

        @precondition(lambda self: not self.asleep)
        @rule()
        def wait(self) -> None:
            outputs = llm.wait_for_completion(use_tqdm=False)
            assert [output.request_id for output in outputs] == [name for name, _ in self.queued]
            for (name, number), output in zip(self.queued, outputs, strict=True):
                completion = output.outputs[0]
                if completion.finish_reason == "abort":
                    assert name in self.aborted
                    assert completion.token_ids == answers[number][: len(completion.token_ids)]
                else:
                    assert completion.token_ids == answers[number]
            self.queued.clear()

        @precondition(lambda self: self.queued)
        @rule(place=st.integers(0, 20))
        def abort(self, place: int) -> None:
            name, _ = self.queued[place % len(self.queued)]
            self.aborted.add(name)
            llm.llm_engine.abort_request(name)

        @rule(mode=st.sampled_from(["abort", "wait", "keep"]))
        def sleep(self, mode: str) -> None:
            llm.sleep(0, mode)
            self.asleep = True
            if mode == "abort":
                self.aborted |= {name for name, _ in self.queued}
            if mode != "keep":
                assert not llm.llm_engine.has_unfinished_requests()

        @rule()
        def wake_up(self) -> None:
            assert llm.wake_up()
            self.asleep = False

        @invariant()
        def no_more_is_unfinished_than_was_queued(self) -> None:
            assert llm.llm_engine.get_num_unfinished_requests() <= len(self.queued)

        def teardown(self) -> None:
            self.wake_up()
            self.wait()
            assert not llm.llm_engine.has_unfinished_requests()

    return Machine


def test_queues(make_tiny_llm: Callable[..., LLM]) -> None:
    llm = make_tiny_llm(num_gpu_blocks_override=16)
    outputs = llm.generate([*PROMPTS], GREEDY, use_tqdm=False)
    answers = {i: output.outputs[0].token_ids for i, output in enumerate(outputs)}
    run_machine(
        machine(llm, answers, itertools.count(len(PROMPTS))),
        settings=settings(
            max_examples=20,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
