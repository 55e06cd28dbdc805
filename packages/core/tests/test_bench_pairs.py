"""Pairs: the order of the calls, what is counted, and what is written about it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plait.bench.cells import Cell, Side, System, Workload
from plait.bench.pairs import WARM_UP_TOKENS, CellResult, Spread, measure
from plait.bench.report import Circumstances, json_lines, table
from plait.bench.worker import Answer
from plait_kernels.errors import PlaitError

OURS = System("plait", "float32", lora=True)
PEER = System("peft", "float32", lora=True)
WORKLOAD = Workload(3, 5, 10)
ADAPTERS = ("/adapters/0", "/adapters/1")
CIRCUMSTANCES = Circumstances("2026-01-02T03:04:05+00:00", "A processor", "model.gguf", 2, 7)


class Worker:
    """Takes the seconds that it is told to, and continues a prompt with its first token."""

    def __init__(self, name: str, calls: list[Any], seconds: list[float], wrong: int = 0) -> None:
        self.name = name
        self.calls = calls
        self.seconds = [99.0, *seconds]
        self.wrong = wrong

    def call(self, method: str, **arguments: Any) -> Answer:
        self.calls.append((self.name, method, arguments))
        length = arguments["output_tokens"]
        rows = [[prompt[0]] * length for prompt in arguments["prompts"]]
        for row in range(self.wrong):
            rows[row][-1] += 1
        return Answer(self.seconds.pop(0), rows)


class Loaded:
    def __init__(self, workers: dict[System, Any]) -> None:
        self.workers = workers

    def get(self, system: System) -> tuple[Any, dict[str, str]]:
        return self.workers[system], {system.name: "1.0"}


def prompts(repetition: int) -> list[list[int]]:
    return [[repetition, row, 0, 0, 0] for row in range(WORKLOAD.requests)]


def run(ours: Worker, peer: Worker | None, pairs: int) -> tuple[CellResult, list[str]]:
    other = Side(PEER, 2) if peer else None
    cell = Cell("some", WORKLOAD, Side(OURS, 2), other, 2.5, pairs)
    said: list[str] = []
    result = measure(cell, Loaded({OURS: ours, PEER: peer}), prompts, ADAPTERS, said.append)
    return result, said


def test_sides_take_turns_on_the_same_new_prompts() -> None:
    calls: list[Any] = []
    run(Worker("a", calls, [1.0] * 3), Worker("b", calls, [1.0] * 3), 3)
    assert [name for name, _, _ in calls] == ["a", "b", "a", "b", "a", "b", "a", "b"]
    assert {method for _, method, _ in calls} == {"generate"}
    asked = [arguments["prompts"][0][0] for _, _, arguments in calls]
    assert asked == [0, 0, 1, 1, 2, 2, 3, 3]
    lengths = [arguments["output_tokens"] for _, _, arguments in calls]
    assert lengths == [WARM_UP_TOKENS] * 2 + [10] * 6
    for _, _, arguments in calls:
        assert arguments["adapters"] == ["/adapters/0", "/adapters/1", "/adapters/0"]


def test_rates_ratios_and_equal_rows() -> None:
    # 3 rows of 10 tokens are 30 tokens.
    ours = Worker("a", [], [1.0, 2.0, 1.5])
    peer = Worker("b", [], [3.0, 3.0, 6.0], wrong=1)
    result, said = run(ours, peer, 3)
    assert result.other is not None
    assert result.ours.rates == [30.0, 15.0, 20.0]
    assert result.other.rates == [10.0, 10.0, 5.0]
    assert result.ratios == [3.0, 1.5, 4.0]
    assert result.equal_rows == pytest.approx(2 / 3)
    assert said[0] == "  pair 1 of 3: 30.0 / 10.0 tokens/s"
    assert Spread.of(result.ratios) == Spread(3.0, 1.5, 4.0)
    assert Spread.of([4.0, 1.0]) == Spread(2.5, 1.0, 4.0)


def test_another_number_of_tokens_is_an_error() -> None:
    class Short(Worker):
        def call(self, method: str, **arguments: Any) -> Answer:
            answer = super().call(method, **arguments)
            if arguments["output_tokens"] == 10:
                answer.result[1].pop()
            return answer

    with pytest.raises(PlaitError, match=r"b gave rows of \[10, 9, 10\] tokens; 3 rows of 10"):
        run(Worker("a", [], [1.0]), Short("b", [], [1.0]), 1)


def test_json_lines_say_all_there_is_to_know() -> None:
    result, _ = run(Worker("a", [], [1.0, 2.0]), Worker("b", [], [3.0, 4.0]), 2)
    ours, peer = (json.loads(json.dumps(line)) for line in json_lines(result, CIRCUMSTANCES))
    assert ours == {
        "cell": "some",
        "requests": 3,
        "prompt_tokens": 5,
        "output_tokens": 10,
        "adapters": 2,
        "base_rows": 0,
        "system": "plait, LoRA on",
        "dtype": "float32",
        "lora": True,
        "versions": {"plait": "1.0"},
        "date": "2026-01-02T03:04:05+00:00",
        "device": "A processor",
        "model": "model.gguf",
        "threads": 2,
        "seed": 7,
        "seconds": [1.0, 2.0],
        "tokens_per_second": {"median": 22.5, "min": 15.0, "max": 30.0, "each": [30.0, 15.0]},
        "goal": 2.5,
        "ratio": {"median": 2.5, "min": 2.0, "max": 3.0, "each": [3.0, 2.0]},
        "equal_rows": 1.0,
    }
    assert peer.keys() == ours.keys()
    assert peer["system"] == "transformers + peft"
    assert peer["seconds"] == [3.0, 4.0]
    assert (peer["goal"], peer["ratio"], peer["equal_rows"]) == (None, None, None)


def test_the_table() -> None:
    both, _ = run(Worker("a", [], [1.0, 2.0]), Worker("b", [], [3.0, 4.0]), 2)
    alone, _ = run(Worker("a", [], [1.0]), None, 1)
    assert [line["ratio"] for line in json_lines(alone, CIRCUMSTANCES)] == [None]
    heading, rule, first, second = table([both, alone]).splitlines()
    assert heading.split() == [
        *("cell", "ours", "tokens/s", "other", "tokens/s", "ratio", "spread", "goal", "equal")
    ]
    assert set(rule) == {"-", " "}
    assert first.split("  ")[0] == "some"
    assert "plait, LoRA on, float32" in first
    assert "transformers + peft, float32" in first
    assert first.split()[-7:] == ["2.50", "2.00", "…", "3.00", "≥", "2.5", "100%"]
    assert second.split() == ["some", "plait,", "LoRA", "on,", "float32", "30.0"]
