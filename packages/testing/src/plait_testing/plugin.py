"""The pytest plugin. It imports torch only where a class derives from ``KernelConformance``."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from plait_testing.departures import Deviation
from plait_testing.tally import ANY, PROPERTY, Tally

if TYPE_CHECKING:
    from plait_kernels.backend import Backend
    from plait_testing.conformance import KernelConformance
    from plait_testing.session import ConformanceSession

NOT_DECLARED: Final = "plait_not_declared"
"""Mark of a test of something that the backend does not say that it can; it is deselected."""

SESSION = pytest.StashKey["ConformanceSession"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--kernel-require``."""
    parser.getgroup("plait", "kernel conformance").addoption(
        "--kernel-require",
        metavar="BACKEND",
        action="append",
        nargs="?",
        const=ANY,
        default=[],
        help="fail if no conformance case ran: of this backend (--kernel-require=NAME, may be "
        "repeated), or of some backend and of every one that there is a class for (no name)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Count what runs, in the process that prints the results."""
    config.addinivalue_line(
        "markers", f"{NOT_DECLARED}: of something that the backend does not say that it can"
    )
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Tally(config.getoption("kernel_require")), "plait-tally")


def pytest_pycollect_makeitem(collector: Any, name: str, obj: object) -> Any:
    """Refuse a class that drops a standard test silently; collect what can run."""
    if _is_conformance(obj):
        if collector.istestclass(obj, name) and getattr(obj, "__test__", True):
            _check_class(obj)
    elif _is_conformance(getattr(collector, "obj", None)) and name.startswith("test"):
        from plait_testing.standard import FIRST_TEST, standard_tests

        others = name in standard_tests() and name != FIRST_TEST
        missing = _session(collector.config).why_missing(collector.obj.backend)
        if isinstance(obj, Deviation) or (others and missing):
            return []
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each kernel, or of each kernel and case."""
    if not _is_conformance(metafunc.cls):
        return
    from plait_testing.standard import standard_tests

    if metafunc.function.__name__ in standard_tests():
        from plait_testing.parameters import parametrize

        parametrize(metafunc, _session(metafunc.config))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Note in the report what a test looks at."""
    cls = getattr(item, "cls", None)
    if not _is_conformance(cls):
        return
    from plait_testing.parameters import describe

    item.user_properties.append((PROPERTY, describe(item, _session(item.config))))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of what a backend does not declare."""
    left_out = [item for item in items if item.get_closest_marker(NOT_DECLARED)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def backend_under_test(request: pytest.FixtureRequest) -> Backend:
    """The declaration of the backend that the class names."""
    assert request.cls is not None
    backend = _session(request.config).loaded.get(request.cls.backend)
    assert backend is not None, "other tests are not collected"
    return backend


@pytest.fixture
def why_not_registered(request: pytest.FixtureRequest) -> str:
    """Why the backend that the class names cannot be tested; empty if it can."""
    assert request.cls is not None
    return _session(request.config).why_missing(request.cls.backend)


def _conformance() -> type[KernelConformance] | None:
    """Return the class, if anybody has imported it: only then can there be one derived from it."""
    module = sys.modules.get("plait_testing.conformance")
    found: type[KernelConformance] | None = getattr(module, "KernelConformance", None)
    return found


def _is_conformance(obj: object) -> bool:
    base = _conformance()
    return base is not None and inspect.isclass(obj) and issubclass(obj, base) and obj is not base


def _session(config: pytest.Config) -> ConformanceSession:
    if SESSION not in config.stash:
        from plait_testing.session import ConformanceSession

        config.stash[SESSION] = ConformanceSession()
    return config.stash[SESSION]


def _check_class(cls: Any) -> None:
    from plait_testing.standard import objections

    found = objections(cls)
    if found:
        listed = "".join(f"\n  {objection}" for objection in found)
        msg = f"{cls.__module__}.{cls.__qualname__} departs from the standard tests:{listed}"
        raise pytest.Collector.CollectError(msg)
