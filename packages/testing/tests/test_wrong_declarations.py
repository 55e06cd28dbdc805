"""A backend whose declaration is wrong in one way is caught by the test that is meant for it."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import pytest

from plait_kernels.config import BUCKETS
from plait_testing.cases import load_cases

pytest_plugins = ["pytester"]

REGISTERED, LIGHT = "test_is_registered", "test_is_declared_lightly"
PROBE, ANSWERS = "test_probe_answers_with_reasons", "test_answers_with_reasons"
TAKES = "test_takes_what_it_declares"
DECLARES = f"{REGISTERED} or {LIGHT} or {PROBE} or {ANSWERS} or {TAKES}"

CASES = len(BUCKETS) * len(load_cases("rms_norm").cases)
RIGHT = "from plait_kernels.ops.rms_norm import reference as make"


def declared(expression: str, before: str = "") -> str:
    return f"""
from plait_kernels import Backend, Kernel, hookimpl
{before}

def kernel(**fields):
    return Kernel("rms_norm", "mine_kernels:make", **fields)

@hookimpl
def plait_kernel_backend():
    return {expression}
"""


def test_a_right_backend_passes(install: Any, run_pytest: Any) -> None:
    install(RIGHT, further=", graph_safe=True")
    run = run_pytest()
    assert (run.failed, run.status) == (set(), 0)
    assert len(run.passed) == 10
    summary = rf"mine on cpu: 1 op, {CASES} cases, (\d+) tests passed; no deviations"
    found = re.search(summary, run.output)
    assert found
    assert int(found[1]) > CASES


SUPPORTS = {
    "False": ("lambda config: False", "returned False"),
    "True": ("lambda config: True", "returned True"),
    "None": ("lambda config: None", "returned None"),
    "a text": ("lambda config: ('no good')", "returned 'no good'"),
    "an empty reason": ("lambda config: (' ',)", "gave the reason ' '"),
    "a reason that is no text": ("lambda config: (3,)", "gave the reason 3"),
    "raises": ("lambda config: 1 // 0", "raised ZeroDivisionError"),
    "raises for a dtype that is not declared": (
        "lambda config: {'float32': ()}[config.dtype]",
        "raised KeyError: 'bfloat16'",
    ),
}


@pytest.mark.parametrize(("supports", "message"), SUPPORTS.values(), ids=SUPPORTS.keys())
def test_supports_does_not_answer_with_reasons(
    install: Any, run_pytest: Any, supports: str, message: str
) -> None:
    fields = f"supports={supports}, dtypes=('float32',)"
    install(RIGHT, declaration=declared(f"Backend('mine', (kernel({fields}),))"))
    run = run_pytest("-k", f"{DECLARES} and not {TAKES}")
    assert run.failed == {ANSWERS}
    assert message in run.messages


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ("lambda device: False", "returned False"),
        ("lambda device: ('',)", "gave the reason ''"),
        ("lambda device: () if device.capability >= (8, 0) else ('old',)", "raised TypeError"),
    ],
)
def test_probe_does_not_answer_with_reasons(
    install: Any, run_pytest: Any, probe: str, message: str
) -> None:
    install(RIGHT, declaration=declared(f"Backend('mine', (kernel(),), probe={probe})"))
    run = run_pytest("-k", DECLARES)
    assert run.failed == {PROBE}
    assert message in run.messages


def test_accepts_an_unknown_weight_format(install: Any, run_pytest: Any) -> None:
    install("from plait_kernels.ops.linear import reference as make", op="linear")
    run = run_pytest()
    assert run.failed == {ANSWERS}
    assert "accepted what nobody can compute" in run.messages
    assert "no-such-format" in run.messages


def test_accepts_a_variant_that_it_does_not_compute(install: Any, run_pytest: Any) -> None:
    kernels = """
    from plait_kernels import OpConfig
    from plait_kernels.ops.attention import reference

    def make(config):
        params = dict(config.params) | {"window": None}
        return reference(OpConfig(config.op, config.dtype, config.bucket, 9, tuple(params.items())))
    """
    install(kernels, op="attention")
    run = run_pytest("-k", "test_agrees_with_reference and (mixed or window or softcap)")
    assert run.failed == {"test_agrees_with_reference"}
    failed = [line for line in run.output.splitlines() if line.startswith("FAILED")]
    assert all("window" in line for line in failed)
    assert run.passed == {"test_agrees_with_reference"}


def test_declares_what_it_does_not_take(install: Any, run_pytest: Any) -> None:
    supports = "lambda config: () if config.dtype == 'float32' else ('not yet',)"
    fields = f"supports={supports}, dtypes=('float32', 'bfloat16')"
    install(RIGHT, declaration=declared(f"Backend('mine', (kernel({fields}),))"))
    run = run_pytest("-k", DECLARES)
    assert run.failed == {TAKES}
    message = f"declares bfloat16 and refuses all {CASES} cases, the first with ('not yet',)"
    assert message in run.messages


COMPOSITES = {
    "imported": "from plait_kernels.torch_backend.rms_norm import make",
    "in a function": """
        def make(config):
            import plait_kernels.torch_backend.rms_norm as torchs
            return torchs.make(config)
    """,
    "from the package": """
        from plait_kernels.torch_backend import rms_norm

        def make(config):
            return rms_norm.make(config)
    """,
    "by a module of its own": "from .parts import make",
}


@pytest.mark.parametrize(("uses", "failed"), [((), {TAKES}), (("torch",), set())])
@pytest.mark.parametrize("kernels", COMPOSITES.values(), ids=COMPOSITES.keys())
def test_uses_another_backend(
    install: Any,
    run_pytest: Any,
    pytester: Any,
    kernels: str,
    uses: tuple[str, ...],
    failed: set[str],
) -> None:
    package = pytester.mkpydir("mine_package")
    (package / "kernels.py").write_text(textwrap.dedent(kernels))
    (package / "parts.py").write_text(COMPOSITES["imported"])
    kernel = f"Kernel('rms_norm', 'mine_package.kernels:make', uses={uses})"
    install(declaration=declared(f"Backend('mine', ({kernel},))"))
    run = run_pytest("-k", TAKES)
    assert run.failed == failed
    if failed:
        assert "imports plait_kernels.torch_backend" in run.messages
        assert "declare Kernel(uses=('torch',)), or do without" in run.messages


def test_a_dtype_that_it_cannot(install: Any, run_pytest: Any) -> None:
    kernels = """
    from plait_kernels.ops.rms_norm import reference

    def make(config):
        right = reference(config)
        return lambda x, weight, eps: right(x.float(), weight.float(), eps)
    """
    install(kernels, declaration=declared("Backend('mine', (kernel(),))"))
    run = run_pytest("-k", "test_agrees_with_reference and ragged")
    assert run.failed == {"test_agrees_with_reference"}
    assert "dtype of the output is torch.float32; the reference's is torch.float16" in run.messages


HEAVY = {
    "torch when imported": (
        "import torch",
        "Backend('mine', (kernel(),))",
        "imported numpy, torch",
    ),
    "torch in the hook": (
        "",
        "Backend('mine', (kernel(),), automatic=__import__('torch') is not None)",
        "imported numpy, torch",
    ),
    "its factories": (
        "import mine_kernels",
        "Backend('mine', (kernel(),))",
        "imported mine_kernels, where factories are",
    ),
    "a kernel library": ("import triton", "Backend('mine', (kernel(),))", "imported triton"),
}


@pytest.mark.parametrize(("before", "backend", "message"), HEAVY.values(), ids=HEAVY.keys())
def test_declaring_imports_heavy_modules(
    install: Any, run_pytest: Any, pytester: Any, before: str, backend: str, message: str
) -> None:
    pytester.makepyfile(triton="version = 'a stand-in'")
    kernels = "make = None" if "mine_kernels" in before else RIGHT
    install(kernels, declaration=declared(backend, before))
    run = run_pytest("-k", DECLARES)
    assert run.failed == {LIGHT}
    assert message in run.messages


NOT_LOADED = {
    "unknown op": ("Backend('mine', (Kernel('rms', 'a:b'),))", "unknown op 'rms'"),
    "unknown dtype": (
        "Backend('mine', (kernel(dtypes=('float64',)),))",
        "of its kernel for rms_norm dtypes has the unknown 'float64'",
    ),
    "no dtypes": ("Backend('mine', (kernel(dtypes=()),))", "dtypes is empty"),
    "unknown device": (
        "Backend('mine', (kernel(devices=('tpu',)),))",
        "of its kernel for rms_norm devices has the unknown 'tpu'",
    ),
    "half a capability": (
        "Backend('mine', (kernel(devices=('cuda',), min_capability=(9,)),))",
        "write a bound as (major, minor)",
    ),
    "wrong api_version": ("Backend('mine', (kernel(),), api_version=99)", "API version 99"),
    "a hook that raises": ("1 // 0", "ZeroDivisionError"),
    "another name": ("Backend('yours', (kernel(),))", "no backend is called 'mine'"),
}


@pytest.mark.parametrize(("backend", "message"), NOT_LOADED.values(), ids=NOT_LOADED.keys())
def test_a_backend_that_is_not_loaded_is_one_failure(
    install: Any, run_pytest: Any, backend: str, message: str
) -> None:
    install(RIGHT, declaration=declared(backend))
    run = run_pytest()
    assert (run.passed, run.failed, run.status) == (set(), {REGISTERED}, 1)
    assert message in run.messages
    assert "1 failed" in run.output
    assert run.output.count("error") == 0


def test_a_backend_that_nobody_registers_is_one_failure(run_pytest: Any) -> None:
    run = run_pytest()
    assert (run.passed, run.failed) == (set(), {REGISTERED})
    assert "no backend is called 'mine'; there are reference, " in run.messages


def test_a_factory_that_is_missing_fails_every_case(install: Any, run_pytest: Any) -> None:
    install("")
    run = run_pytest("-k", "ragged or registered")
    assert run.passed == {REGISTERED}
    assert len(run.failed) == 3
    assert "has no attribute 'make'" in run.messages
