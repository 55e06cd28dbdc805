"""Factories of chosen kernels: what fails or is wrong is a reason, and the choice goes on."""

from __future__ import annotations

import logging
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from plait_kernels.__main__ import example
from plait_kernels.backend import Backend, Kernel
from plait_kernels.config import OpConfig
from plait_kernels.device import Device
from plait_kernels.errors import KernelError, KernelRequestError
from plait_kernels.loader import BUILT_IN, LoadedBackends, load_backends
from plait_kernels.ops import OPS, load_op
from plait_kernels.ops.calls import objection
from plait_kernels.request import KernelRequest
from plait_kernels.selection import select

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from plait_kernels.table import KernelTable

MODULE = "plait_fake_factories"

SOURCE = """
import sys
from plait_kernels.errors import BackendUnusable

calls = []

class Linear:
    layout = "fake"
    def prepare(self, weight): return weight
    def __call__(self, x, weight): return x

class NoLayout:
    def prepare(self, weight): return weight
    def __call__(self, x, weight): return x

class NotCallable:
    layout = "fake"
    def prepare(self, weight): return weight

class BadAttribute:
    @property
    def prepare(self): raise ValueError("later")

def make(config): return Linear()
def refuse(config): raise RuntimeError("no compiler")
def leave(config): sys.exit("no driver")
def interrupt(config): raise KeyboardInterrupt
def nothing(config): pass
def number(config): return 7
def a_class(config): return Linear
def no_layout(config): return NoLayout()
def not_callable(config): return NotCallable()
def a_function(config): return lambda x, weight: x
def bad_attribute(config): return BadAttribute()
def two_arguments(x, weight): return x
async def later(config): return Linear()

def unusable(config):
    calls.append(config)
    raise BackendUnusable("compiling takes 300 s and fails; install g++")

def small_only(config):
    calls.append(config)
    if config.max_tokens > 8:
        raise RuntimeError("too many tokens")
    return Linear()
"""


@pytest.fixture(autouse=True)
def _factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / f"{MODULE}.py").write_text(textwrap.dedent(SOURCE))
    (tmp_path / f"{MODULE}_leaving.py").write_text("raise SystemExit('no driver')")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in (MODULE, f"{MODULE}_leaving"):
        sys.modules.pop(name, None)


def linear(max_tokens: int = 8, **params: Any) -> OpConfig:
    return OpConfig.of("linear", dtype="float32", bucket="decode", max_tokens=max_tokens, **params)


def one(name: str, function: str, op: str = "linear", **fields: Any) -> Backend:
    factory = function if ":" in function else f"{MODULE}:{function}"
    return Backend(name, (Kernel(op, factory, **fields),))


def table_of(*backends: Backend, request: str = "", configs: Any = None) -> KernelTable:
    loaded = LoadedBackends(backends)
    return select(configs or [linear()], loaded, KernelRequest.parse(request), Device())


FAILING = [
    ("plait_no_such_module:make", "cannot be imported: ModuleNotFoundError: No module"),
    (f"{MODULE}_leaving:make", "cannot be imported: SystemExit: no driver"),
    ("no_such_function", f"{MODULE}:no_such_function cannot be imported: AttributeError"),
    ("refuse", f"its factory {MODULE}:refuse raised RuntimeError: no compiler"),
    ("leave", "raised SystemExit: no driver"),
    ("nothing", f"its factory {MODULE}:nothing returned None, which cannot be called"),
    ("number", "returned an object of class int, which has no method 'prepare'"),
    ("a_class", "returned the class Linear, not an object of it"),
    ("no_layout", "returned an object of class NoLayout, which has no text 'layout'"),
    ("not_callable", "returned an object of class NotCallable, which cannot be called"),
    ("a_function", "returned an object of class function, which has no method 'prepare'"),
    ("bad_attribute", "raised ValueError: later"),
    ("two_arguments", "raised TypeError: two_arguments() missing 1 required"),
    ("later", "returned an object of class coroutine"),
]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize(("function", "reason"), FAILING)
def test_under_auto_a_factory_that_fails_costs_itself_only(
    function: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    if function == "nothing":
        reason = reason.replace("which cannot be called", "which has no method 'prepare'")
    with caplog.at_level(logging.WARNING):
        table = table_of(one("bad", function, priority=9), one("good", "make"))
    (choice,) = table.choices.values()
    assert choice.chosen.backend.name == "good"
    assert type(table.implementations[linear()]).__name__ == "Linear"
    (dropped,) = choice.dropped
    assert dropped.backend.name == "bad"
    assert reason in str(dropped)
    (record,) = caplog.records
    assert "backend 'bad'" in record.getMessage()
    assert reason in record.getMessage()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("function", [function for function, _ in FAILING])
def test_by_name_it_is_an_error_that_lists_every_candidate(function: str) -> None:
    with pytest.raises(KernelRequestError) as caught:
        table_of(one("bad", function, priority=9), one("good", "make"), request="bad")
    message = str(caught.value)
    assert "no kernel for linear[float32] in decode on cpu satisfies kernels='bad'" in message
    assert "write 'bad,*' for auto where bad cannot" in message
    assert "\n  bad: its factory " in message
    assert "\n  good: usable (priority 0)" in message


def test_a_list_goes_on_to_the_next() -> None:
    backends = one("bad", "refuse"), one("good", "make"), one("best", "make", priority=9)
    (choice,) = table_of(*backends, request="bad,good").choices.values()
    assert choice.chosen.backend.name == "good"


def test_where_nothing_is_left_all_reasons_are_told() -> None:
    with pytest.raises(KernelError) as caught:
        table_of(one("bad", "refuse"), one("worse", "nothing"))
    assert "bad: its factory" in str(caught.value)
    assert "worse: its factory" in str(caught.value)


def test_another_kernel_of_the_same_backend_is_tried() -> None:
    kernels = (Kernel("linear", f"{MODULE}:refuse"), Kernel("linear", f"{MODULE}:make"))
    (choice,) = table_of(Backend("two", kernels), request="two").choices.values()
    assert choice.chosen.kernel is kernels[1]


def test_an_interrupt_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        table_of(one("bad", "interrupt"), one("good", "make"))


def test_what_cannot_be_used_at_all_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    configs = [linear(in_features=size) for size in range(1, 6)]
    table = table_of(one("bad", "unusable", priority=9), one("good", "make"), configs=configs)
    assert {choice.chosen.backend.name for choice in table.choices.values()} == {"good"}
    assert all("bad: compiling takes 300 s" in str(choice) for choice in table.choices.values())
    assert len(sys.modules[MODULE].calls) == 1
    assert len(caplog.records) == 1


def test_a_factory_that_fails_for_one_config_is_asked_for_the_others() -> None:
    configs = [linear(size) for size in (16, 8, 4)]
    table = table_of(one("small", "small_only", priority=9), one("good", "make"), configs=configs)
    names = [table.choices[config].chosen.backend.name for config in configs]
    assert names == ["good", "small", "small"]
    assert sys.modules[MODULE].calls == configs


@pytest.mark.parametrize("op", OPS)
def test_what_right_factories_return_has_no_objection(op: str) -> None:
    config = example(op, "float32", "decode", {})
    assert objection(op, load_op(op).reference(config)) == ""
    loaded = load_backends(BUILT_IN)
    table = select([config], loaded, KernelRequest(), Device())
    assert objection(op, table.implementations[config]) == ""


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("wrong", [None, 7, "text", object(), object])
def test_no_op_takes_what_cannot_be_called(op: str, wrong: object) -> None:
    assert objection(op, wrong)


@pytest.mark.parametrize("missing", ["plan", "run", "shrink", "expand"])
def test_every_call_of_an_object_is_looked_for(missing: str) -> None:
    op = "attention" if missing in ("plan", "run") else "lora"
    names = {"attention": ("plan", "run"), "lora": ("shrink", "expand")}[op]
    made = type("Made", (), {name: print for name in names if name != missing})()
    assert (
        objection(op, made) == f"returned an object of class Made, which has no method {missing!r}"
    )


@pytest.mark.parametrize(("third", "taken"), [(print, True), (None, True), ("text", False)])
def test_the_third_call_of_lora_may_be_missing(third: object, taken: bool) -> None:
    calls = {"shrink": print, "expand": print, "expand_silu_and_mul": third}
    assert (objection("lora", type("Made", (), calls)()) == "") == taken
