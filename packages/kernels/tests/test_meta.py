"""Rules that every op, backend and exported name must keep."""

from __future__ import annotations

import ast
import importlib
import inspect
import tomllib
from pathlib import Path

import pytest

import plait_kernels
from plait_kernels import hookspecs
from plait_kernels.config import BUCKETS, DTYPES, OpConfig, Scalar
from plait_kernels.device import Device
from plait_kernels.errors import KernelError
from plait_kernels.examination import explain
from plait_kernels.loader import BUILT_IN, GROUP, load_backends
from plait_kernels.ops import OPS, load_op
from plait_kernels.ops.contract import Op
from plait_kernels.request import KernelRequest
from plait_kernels.selection import choose

PACKAGE = Path(__file__).parents[1]


@pytest.mark.parametrize("name", OPS)
def test_an_op_is_complete(name: str) -> None:
    op = load_op(name)
    module = importlib.import_module(OPS[name])
    assert isinstance(op, Op)
    assert op.name == name
    assert op.reference is module.reference
    assert op.inputs is module.inputs
    assert dict(op.tolerance) == dict(module.TOLERANCE)


@pytest.mark.parametrize("name", OPS)
def test_an_op_is_documented(name: str) -> None:
    module = importlib.import_module(OPS[name])
    for thing in (module, module.reference, module.inputs):
        assert (inspect.getdoc(thing) or "").strip()


@pytest.mark.parametrize("name", OPS)
def test_an_ops_tolerances_are_of_known_dtypes(name: str) -> None:
    tolerance = load_op(name).tolerance
    assert "float32" in tolerance
    assert set(tolerance) <= set(DTYPES)
    for rtol, atol in tolerance.values():
        assert 0 <= rtol < 0.1
        assert 0 <= atol < 0.1


@pytest.mark.parametrize("name", OPS)
def test_an_op_has_a_test(name: str) -> None:
    assert list((PACKAGE / "tests").glob(f"test_op_{name}*.py"))


@pytest.mark.parametrize("backend", [entry_point.name for entry_point in BUILT_IN])
@pytest.mark.parametrize("op", OPS)
def test_a_built_in_backend_has_a_factory_for_every_op(backend: str, op: str) -> None:
    found = load_backends(BUILT_IN).get(backend)
    assert found is not None
    (kernel,) = [kernel for kernel in found.kernels if kernel.op == op]
    module, _, function = kernel.factory.partition(":")
    factory = getattr(importlib.import_module(module), function)
    assert len(inspect.signature(factory).parameters) == 1


def test_ops_are_not_left_out() -> None:
    files = {path.stem for path in (PACKAGE / "src/plait_kernels/ops").glob("*.py")}
    with_op = {
        stem
        for stem in files
        for node in ast.parse((PACKAGE / f"src/plait_kernels/ops/{stem}.py").read_text()).body
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "OP" for target in node.targets)
    }
    assert with_op == set(OPS)


def test_an_unknown_op_is_an_error() -> None:
    with pytest.raises(KernelError, match="unknown op 'rms'; use one of rms_norm, "):
        load_op("rms")


def test_auto_takes_torch_and_never_reference() -> None:
    configs = [
        OpConfig.of(op, dtype=dtype, bucket=bucket, max_tokens=8)
        for op in OPS
        for dtype in DTYPES
        for bucket in BUCKETS
    ]
    choices = choose(configs, load_backends(BUILT_IN), KernelRequest(), Device())
    assert {choice.chosen.backend.name for choice in choices} == {"torch"}


@pytest.mark.parametrize(
    ("op", "params", "refused"),
    [
        ("attention", {}, ""),
        ("attention", {"window": None, "softcap": None, "sinks": None}, ""),
        ("attention", {"window": 4096}, "torch"),
        ("attention", {"softcap": 50.0}, "torch"),
        ("attention", {"sinks": True}, "torch reference"),
        ("linear", {"format": "dense"}, ""),
        ("linear", {"format": "q4_0"}, "torch reference"),
    ],
)
def test_variants_are_refused_with_a_reason(
    op: str, params: dict[str, Scalar], refused: str
) -> None:
    config = OpConfig.of(op, dtype="float32", bucket="decode", max_tokens=8, **params)
    (candidates,) = explain([config], load_backends(BUILT_IN), Device()).values()
    assert {c.backend.name for c in candidates if c.reasons} == set(refused.split())
    for candidate in candidates:
        for reason in candidate.reasons:
            assert any(repr(value) in reason for value in params.values())


def test_the_metadata_names_the_built_in_backends() -> None:
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][GROUP] == {
        entry_point.name: entry_point.value for entry_point in BUILT_IN
    }


def test_every_hook_is_documented() -> None:
    hooks = [
        function
        for _, function in inspect.getmembers(hookspecs, inspect.isfunction)
        if hasattr(function, f"{hookspecs.PROJECT}_spec")
    ]
    assert [hook.__name__ for hook in hooks] == ["plait_kernel_backend"]
    assert all("Returns" in (inspect.getdoc(hook) or "") for hook in hooks)


def test_all_is_exact() -> None:
    tree = ast.parse(inspect.getsource(plait_kernels))
    exported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("plait_kernels")
        for alias in node.names
    }
    assert sorted(plait_kernels.__all__) == sorted(exported)
    assert set(dir(plait_kernels)) >= exported


def test_exported_names_are_those_of_the_modules_that_type_checkers_see() -> None:
    tree = ast.parse(inspect.getsource(plait_kernels))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("plait_kernels"):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert getattr(plait_kernels, alias.name) is getattr(module, alias.name)


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Kernels'"):
        _ = plait_kernels.Kernels
