"""A kernel whose second call is not the first is caught, and so is one that cannot be captured."""

from __future__ import annotations

from typing import Any

import pytest

pytest_plugins = ["pytester"]

AGREES, WRITES = "test_agrees_with_reference", "test_writes_only_its_outputs"
REPEATS, REPLAYS = "test_gives_the_same_bits_twice", "test_replays_in_a_graph"

RMS_NORM = """
import torch
from plait_kernels.ops.rms_norm import reference

def make(config):
    right = reference(config)
    calls = []

    def kernel(x, weight, eps):
        {body}

    return kernel
"""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("import time; state = time.perf_counter_ns() % 97 + 1", "at the second call"),
        ("import random; state = random.random()", "at the second call"),
        ("calls.append(0); state = len(calls)", "at the second call"),
        ("state = id(calls) % 1009 + 1", "at the new implementation"),
    ],
    ids=["by the clock", "by chance", "by the number of calls", "by the implementation"],
)
def test_other_bits_the_second_time(install: Any, run_pytest: Any, make: str, message: str) -> None:
    body = f"{make}; return right(x, weight, eps) * (1 + 1e-6 * state)"
    install(RMS_NORM.format(body=body))
    run = run_pytest("-k", f"{REPEATS} and ragged")
    assert run.failed == {REPEATS}
    assert message in run.messages


NOT_GRAPH_SAFE = {
    "item": "n = x.sum().item(); return right(x, weight, eps)",
    "bool": "return right(x, weight, eps) if x.any() else x.clone()",
    "int of an element": "int(x[0, 0]); return right(x, weight, eps)",
    "tolist": "x.tolist(); return right(x, weight, eps)",
    "numpy": "x.numpy(); return right(x, weight, eps)",
    "cpu": "x.cpu(); return right(x, weight, eps)",
    "nonzero": "(x > 0).nonzero(); return right(x, weight, eps)",
    "mask as index": "y = right(x, weight, eps); x[x > 0]; return y",
    "masked_select": "x.masked_select(x > 0); return right(x, weight, eps)",
    "unique": "x.unique(); return right(x, weight, eps)",
    "repeat_interleave": "x[0].repeat_interleave((x[0] > 0).long()); return right(x, weight, eps)",
}


@pytest.mark.parametrize("body", NOT_GRAPH_SAFE.values(), ids=NOT_GRAPH_SAFE.keys())
def test_waits_for_the_device_though_graph_safe(install: Any, run_pytest: Any, body: str) -> None:
    install(RMS_NORM.format(body=body), further=", graph_safe=True")
    run = run_pytest("-k", "ragged")
    assert run.failed == {REPLAYS}
    assert "declare graph_safe=False" in run.messages
    assert run.passed == {AGREES, WRITES, REPEATS}


@pytest.mark.parametrize(
    "body",
    [
        "calls or calls.append(right(x, weight, eps)); return calls[0].clone()",
        "calls or calls.append(weight.clone()); return right(x, calls[0], eps)",
    ],
    ids=["result", "weight"],
)
def test_keeps_data_of_the_first_call_though_graph_safe(
    install: Any, run_pytest: Any, body: str
) -> None:
    install(RMS_NORM.format(body=body), further=", graph_safe=True")
    run = run_pytest("-k", "ragged")
    assert run.failed == {REPLAYS}
    assert "after the contents of its tensors were replaced in place" in run.messages


def test_nothing_is_replayed_unless_graph_safe(install: Any, run_pytest: Any) -> None:
    install(RMS_NORM.format(body="x.tolist(); return right(x, weight, eps)"))
    run = run_pytest("-rs")
    assert run.failed == set()
    assert REPLAYS not in run.passed
    assert "1 deselected" in run.output
