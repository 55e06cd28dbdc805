"""Standard tests cannot be dropped silently, and what ran is counted."""

from __future__ import annotations

from typing import Any

import pytest

from plait_kernels.errors import KernelError
from plait_testing import Narrowing, deviation

pytest_plugins = ["pytester"]

RIGHT = "from plait_kernels.ops.silu_and_mul import reference as make"
SILENT = {
    "overridden": (
        "def test_agrees_with_reference(self, subject): pass",
        "it overrides the standard test test_agrees_with_reference; say why with "
        "plait_testing.@deviation(reason=…)",
    ),
    "set to None": (
        "test_agrees_with_reference = None",
        "it drops the standard test test_agrees_with_reference; say why",
    ),
    "no longer callable": ("test_replays_in_a_graph = 'later'", "it drops the standard test"),
    "the first test": (
        "test_is_registered = deviation(reason='no entry point')",
        "without which nothing is known to be tested",
    ),
    "a constructor": ("def __init__(self): pass", "it has a constructor"),
    "narrowed without a reason": ("narrowing = ('float32',)", "use plait_testing.Narrowing"),
    "narrowed to nothing": (
        "narrowing = Narrowing('why', ops=('norm',), cases=('none',))",
        "its narrowing names the unknown op 'norm'",
    ),
    "narrowed to no bucket": (
        "narrowing = Narrowing('why', buckets=('prompt',))",
        "its narrowing names the unknown bucket 'prompt'",
    ),
    "another device": ("device = 'tpu'", "its attribute device is 'tpu'"),
    "no backend": ("backend = ''", "its attribute backend is ''"),
}


def conformance(body: str) -> str:
    return f"""
from plait_testing import KernelConformance, Narrowing, deviation

class TestMine(KernelConformance):
    backend = "mine"
    device = "cpu"
    {body}
"""


@pytest.mark.parametrize(("body", "message"), SILENT.values(), ids=SILENT.keys())
def test_a_silent_departure_fails_at_collection(
    install: Any, run_pytest: Any, body: str, message: str
) -> None:
    install(RIGHT, op="silu_and_mul")
    run = run_pytest(tests=conformance(body))
    assert run.passed == set()
    assert run.status == pytest.ExitCode.INTERRUPTED
    assert "test_mine.TestMine departs from the standard tests:" in run.output
    assert message in run.output


@pytest.mark.parametrize(
    "tests",
    [
        conformance("pass") + "TestMine.test_agrees_with_reference = None\n",
        """
from plait_testing import KernelConformance

class Quick:
    def test_agrees_with_reference(self):
        pass

class TestMine(Quick, KernelConformance):
    backend = "mine"
""",
    ],
    ids=["afterwards", "by a mixin"],
)
def test_a_hidden_departure_fails_too(install: Any, run_pytest: Any, tests: str) -> None:
    install(RIGHT, op="silu_and_mul")
    run = run_pytest(tests=tests)
    assert run.status == pytest.ExitCode.INTERRUPTED
    assert "the standard test test_agrees_with_reference; say why" in run.output


def test_a_class_without_a_backend_fails_at_collection(run_pytest: Any) -> None:
    run = run_pytest(
        tests="""
        from plait_testing import KernelConformance

        class TestMine(KernelConformance):
            pass
        """
    )
    assert run.status == pytest.ExitCode.INTERRUPTED
    assert "its attribute backend is None" in run.output


def test_declared_departures_are_shown(install: Any, run_pytest: Any) -> None:
    install(RIGHT, op="silu_and_mul")
    body = """
    test_gives_the_same_bits_twice = deviation(reason="sums in any order")
    narrowing = Narrowing("the rest is slow", cases=("ragged", "one_token"))

    @deviation(reason="looks closer")
    def test_agrees_with_reference(self, subject):
        assert subject.case.name in ("ragged", "one_token")

    def test_of_my_own(self):
        pass
    """
    run = run_pytest(tests=conformance(body))
    assert run.failed == set()
    assert {"test_of_my_own", "test_agrees_with_reference"} <= run.passed
    assert "test_gives_the_same_bits_twice" not in run.passed
    assert "mine on cpu: 1 op, 4 cases, 14 tests passed; 3 deviations" in run.output
    for line in (
        "  test_gives_the_same_bits_twice: sums in any order",
        "  test_agrees_with_reference: looks closer",
        "  narrowed: the rest is slow",
    ):
        assert line in run.output.splitlines()


def test_a_bucket_alone(install: Any, run_pytest: Any) -> None:
    install(RIGHT, op="silu_and_mul")
    body = """
    narrowing = Narrowing("the other is slow", cases=("ragged",), buckets=("prefill",))

    @deviation(reason="looks closer")
    def test_agrees_with_reference(self, subject):
        assert subject.bucket == "prefill"
    """
    run = run_pytest(tests=conformance(body))
    assert (run.failed, run.status) == (set(), 0)
    assert "mine on cpu: 1 op, 1 case, " in run.output


def test_a_test_of_ones_own_is_not_parametrized(install: Any, run_pytest: Any) -> None:
    install(RIGHT, op="silu_and_mul")
    body = """
    @deviation(reason="without parameters")
    def test_replays_in_a_graph(self):
        pass
    """
    run = run_pytest("-k", "test_replays_in_a_graph", tests=conformance(body))
    assert run.passed == {"test_replays_in_a_graph"}


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_a_departure_needs_a_reason(reason: Any) -> None:
    with pytest.raises(KernelError, match="say why"):
        deviation(reason=reason)
    with pytest.raises(KernelError, match="say why"):
        Narrowing(reason)


def test_required_and_run(install: Any, run_pytest: Any) -> None:
    install(RIGHT, op="silu_and_mul")
    for option in ("--kernel-require=mine", "--kernel-require=*"):
        run = run_pytest(option, "-k", "ragged")
        assert run.status == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("option", "tests", "message"),
    [
        ("--kernel-require=*", "def test_other(): pass", "no such tests were collected"),
        (
            "--kernel-require=mine",
            "def test_other(): pass",
            "no conformance case of backend 'mine'",
        ),
        ("--kernel-require=*", "", "no conformance case of any backend ran"),
        ("--kernel-require=yours", conformance("pass"), "no conformance case of backend 'yours'"),
        (
            "--kernel-require=mine",
            conformance("device = 'cuda'"),
            "no conformance case of backend 'mine' ran (no case ran: no CUDA device 'cuda' here",
        ),
        (
            "--kernel-require=*",
            conformance("pass")
            + "class TestOther(KernelConformance):\n"
            + "    backend = 'torch'\n"
            + "    narrowing = Narrowing('none', ops=('rms_norm',), dtypes=('int8',))\n",
            "backend 'torch' on auto: no case ran: its narrowing leaves nothing",
        ),
    ],
    ids=["no class", "no class of that name", "no test", "other name", "no device", "one of two"],
)
def test_required_and_not_run(
    install: Any, run_pytest: Any, monkeypatch: Any, option: str, tests: str, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    install(RIGHT, op="silu_and_mul")
    run = run_pytest(option, tests=tests)
    assert run.failed == set()
    assert run.status == pytest.ExitCode.TESTS_FAILED
    assert message in run.output


def test_a_backend_of_another_device_is_idle_and_says_why(install: Any, run_pytest: Any) -> None:
    install(RIGHT, op="silu_and_mul", further=", devices=('cuda',)")
    run = run_pytest("-rs", tests=conformance("device = 'cpu'"))
    assert (run.failed, run.status) == (set(), 0)
    assert "mine on cpu: no case ran: runs on cuda, not on cpu" in run.output
    assert "SKIPPED" in run.output


def test_other_projects_pay_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_heavy():
            assert "torch" not in sys.modules
            assert "plait_testing.plugin" in sys.modules
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1)
    assert "kernel conformance" not in result.stdout.str()
