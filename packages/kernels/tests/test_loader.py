"""Loading backends: every way a plugin can fail is kept, logged, and hinders no other plugin."""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pytest

from plait_kernels.loader import BUILT_IN, GROUP, load_backends

if TYPE_CHECKING:
    from pathlib import Path

MakePlugin = Callable[..., EntryPoint]

GOOD = """
    from plait_kernels import Backend, Kernel, hookimpl

    @hookimpl
    def plait_kernel_backend():
        return Backend("good", (Kernel("rms_norm", "nowhere.to:be"),))
"""


def returning(expression: str) -> str:
    return f"""
    from plait_kernels import Backend, Kernel, hookimpl

    @hookimpl
    def plait_kernel_backend():
        return {expression}
    """


@pytest.fixture
def make_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePlugin]:
    monkeypatch.syspath_prepend(tmp_path)
    modules: list[str] = []

    def make(source: str, name: str = "fake") -> EntryPoint:
        module = f"plait_fake_plugin_{len(modules)}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        modules.append(module)
        return EntryPoint(name, module, GROUP)

    yield make
    for module in modules:
        sys.modules.pop(module, None)


def test_a_plugin_loads(make_plugin: MakePlugin) -> None:
    loaded = load_backends([make_plugin(GOOD)])
    assert loaded.failures == ()
    backend = loaded.get("good")
    assert backend is not None
    assert [kernel.op for kernel in backend.kernels] == ["rms_norm"]
    assert loaded.get("bad") is None


def test_an_object_of_a_module_can_be_the_plugin(make_plugin: MakePlugin) -> None:
    source = """
    from plait_kernels import Backend, Kernel, hookimpl

    class Plugin:
        @hookimpl
        def plait_kernel_backend(self):
            return Backend("of-an-object", (Kernel("lora", "a:b"),))

    plugin = Plugin()
    """
    module = make_plugin(source).value
    loaded = load_backends([EntryPoint("fake", f"{module}:plugin", GROUP)])
    assert [backend.name for backend in loaded.backends] == ["of-an-object"]


def test_nothing_installed_is_no_failure() -> None:
    loaded = load_backends([])
    assert (loaded.backends, loaded.failures) == ((), ())


@pytest.mark.parametrize(
    ("source", "reason", "remedy"),
    [
        ("import a_library_that_is_missing", "No module named 'a_library", "install"),
        ("raise RuntimeError('CUDA broke')", "RuntimeError: CUDA broke", "repair or uninstall"),
        ("raise SystemExit(3)", "SystemExit: 3", "repair or uninstall"),
        ("this is no Python", "SyntaxError", "repair or uninstall"),
        (returning("1 / 0"), "plait_kernel_backend raised ZeroDivisionError", "report"),
        ("x = 1", "does not implement the hook plait_kernel_backend", "hookimpl"),
        (
            """
            from plait_kernels import Backend, hookimpl

            @hookimpl
            def plait_kernel_backends():
                return Backend("typo", ())
            """,
            "unknown hook 'plait_kernel_backends'",
            "report",
        ),
        (returning("None"), "returned NoneType", "return one Backend"),
        (returning("{'name': 'fake'}"), "returned dict", "return one Backend"),
        (returning("[Backend('fake', (Kernel('lora', 'a:b'),))]"), "returned list", "one Backend"),
        (
            """
            from plait_kernels import hookimpl

            @hookimpl
            def plait_kernel_backend():
                raise SystemExit("no driver")
            """,
            "plait_kernel_backend raised SystemExit: no driver",
            "report",
        ),
        (
            "import warnings\nwarnings.simplefilter('error')\nwarnings.warn('old library')",
            "UserWarning: old library",
            "repair or uninstall",
        ),
        ("raise RuntimeError('x' * 10**7)", "(10000000 characters)", "repair or uninstall"),
    ],
)
def test_a_failure_is_kept_and_logged_and_hinders_no_other(
    source: str,
    reason: str,
    remedy: str,
    make_plugin: MakePlugin,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = make_plugin(source, "fake")
    with caplog.at_level(logging.WARNING):
        loaded = load_backends([bad, make_plugin(GOOD)])
    assert [backend.name for backend in loaded.backends] == ["good"]
    (failure,) = loaded.failures
    assert failure is loaded.failure("fake")
    assert len(str(failure)) < 1000
    assert reason in failure.reason
    assert remedy in failure.remedy
    assert bad.value in failure.origin
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert failure.reason in record.getMessage()
    assert failure.remedy in record.getMessage()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("plait_module_that_is_gone", "ModuleNotFoundError"),
        ("json:no_such_object", "AttributeError"),
        ("", "names '', which is no module"),
        ("a/path.py", "names 'a/path.py', which is no module"),
        ("two words", "names 'two words', which is no module"),
    ],
)
def test_an_entry_point_that_points_to_nothing_is_a_failure(value: str, reason: str) -> None:
    loaded = load_backends([EntryPoint("gone", value, GROUP)])
    (failure,) = loaded.failures
    assert failure.name == "gone"
    assert reason in failure.reason


@pytest.mark.parametrize("place", ["import", "hook"])
def test_an_interrupt_passes(place: str, make_plugin: MakePlugin) -> None:
    raising = "raise KeyboardInterrupt"
    source = raising if place == "import" else returning("1") + f"    {raising}"
    if place == "hook":
        source = source.replace("return 1", "pass")
    with pytest.raises(KeyboardInterrupt):
        load_backends([make_plugin(source)])


def test_a_panic_in_rust_code_costs_its_backend_only(make_plugin: MakePlugin) -> None:
    source = """
    class PanicException(BaseException):
        pass

    PanicException.__module__ = "pyo3_runtime"
    raise PanicException("index out of bounds")
    """
    loaded = load_backends([make_plugin(source), make_plugin(GOOD)])
    assert loaded.get("good") is not None
    assert "PanicException: index out of bounds" in loaded.failures[0].reason


def test_a_plugin_may_print_and_warn(
    make_plugin: MakePlugin, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "import warnings\nprint('hello')\nwarnings.warn('old', stacklevel=1)\n"
    plugin = make_plugin(source + textwrap.dedent(GOOD))
    with pytest.warns(UserWarning, match="old"):
        loaded = load_backends([plugin])
    assert loaded.get("good") is not None
    assert capsys.readouterr().out == "hello\n"


def test_of_two_backends_of_one_name_the_first_is_kept(make_plugin: MakePlugin) -> None:
    first = make_plugin(returning("Backend('same', (Kernel('lora', 'first:make'),))"), "one")
    second = make_plugin(returning("Backend('same', (Kernel('lora', 'second:make'),))"), "two")
    loaded = load_backends([first, second])
    (backend,) = loaded.backends
    assert backend.kernels[0].factory == "first:make"
    (failure,) = loaded.failures
    assert (failure.name, "two" in failure.origin) == ("same", True)
    assert "'same' is already the backend of entry point one = " in failure.reason
    assert "uninstall" in failure.remedy


def test_a_failure_goes_by_the_backends_own_name_once_that_is_known(
    make_plugin: MakePlugin,
) -> None:
    source = returning("Backend('own', (Kernel('lora', 'a:b'),), api_version=0)")
    loaded = load_backends([make_plugin(source, "other")])
    assert loaded.failure("own") is not None
    assert loaded.failure("other") is None


def install(site: Path, module: str, name: str = "acme") -> None:
    info = site / f"plait_{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plait-{name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}\n")


def test_installed_distributions_are_found_after_the_built_in_backends(
    make_plugin: MakePlugin, tmp_path: Path
) -> None:
    install(tmp_path, make_plugin(GOOD).value)
    install(
        tmp_path, make_plugin(returning("Backend('torch', (Kernel('lora', 'a:b'),))")).value, "aaa"
    )
    loaded = load_backends()
    names = [backend.name for backend in loaded.backends]
    assert names[:2] == [entry_point.name for entry_point in BUILT_IN] == ["reference", "torch"]
    assert "good" in names
    failure = loaded.failure("torch")
    assert failure is not None
    assert "of plait-aaa 1.2" in failure.origin


def test_a_failure_names_the_distribution_to_repair(
    make_plugin: MakePlugin, tmp_path: Path
) -> None:
    install(tmp_path, make_plugin("import a_library_that_is_missing").value)
    failure = load_backends().failure("acme")
    assert failure is not None
    assert failure.remedy == "repair or uninstall plait-acme, or install what it needs"


def test_damaged_metadata_hinders_nothing(make_plugin: MakePlugin, tmp_path: Path) -> None:
    install(tmp_path, make_plugin("1 / 0").value, "aaa")
    install(tmp_path, make_plugin(GOOD).value)
    for metadata in tmp_path.glob("*.dist-info/METADATA"):
        metadata.unlink()
    loaded = load_backends()
    assert loaded.get("good") is not None
    failure = loaded.failure("aaa")
    assert failure is not None
    assert failure.remedy.startswith("repair or uninstall the distribution that brings it")


def test_the_metadata_of_an_installed_plait_loads_nothing_twice(tmp_path: Path) -> None:
    info = tmp_path / "plait_kernels-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plait-kernels\nVersion: 9\n")
    lines = [f"{entry_point.name} = {entry_point.value}" for entry_point in BUILT_IN]
    (info / "entry_points.txt").write_text("\n".join((f"[{GROUP}]", *lines)))
    sys.path.insert(0, str(tmp_path))
    try:
        found = importlib.metadata.entry_points(group=GROUP)
        assert {entry_point.name for entry_point in found} >= {"reference", "torch"}
        loaded = load_backends()
    finally:
        sys.path.remove(str(tmp_path))
    assert loaded.failures == ()
    assert [backend.name for backend in loaded.backends][:2] == ["reference", "torch"]


def test_a_damaged_list_of_entry_points_hinders_no_other(
    make_plugin: MakePlugin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(tmp_path, make_plugin(GOOD).value)
    install(tmp_path, "unused", "aaa")
    (tmp_path / "plait_aaa-1.2.dist-info" / "entry_points.txt").write_text(f"[{GROUP}]\nno value\n")
    assert load_backends().get("good") is not None
    assert "plait_aaa-1.2.dist-info cannot be read" in caplog.text
