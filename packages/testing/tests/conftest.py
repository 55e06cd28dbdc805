"""A backend that is installed for one run of pytest inside the test."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TypeAlias

import pytest
import torch

DECLARATION = """
from plait_kernels import Backend, Kernel, hookimpl

@hookimpl
def plait_kernel_backend():
    return {backend}
"""

CONFORMANCE = """
from plait_testing import KernelConformance

class TestMine(KernelConformance):
    backend = "mine"
    device = "cpu"
"""

KERNEL = "Kernel({op!r}, 'mine_kernels:make', dtypes=('float32',){further})"


@dataclass(frozen=True)
class Run:
    """What came of a run of pytest.

    Attributes
    ----------
    passed, failed : set[str]
        Names of tests, without their parameters.
    messages : str
        What the failed tests said.
    output : str
        All that was printed.
    status : int
    """

    passed: set[str]
    failed: set[str]
    messages: str
    output: str
    status: int


class ImportedModules:
    """Keeps what inner runs import of libraries: parts of torch cannot be imported twice.

    pytester forgets modules after each run, and once more after the test.
    """

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}

    def pytest_unconfigure(self) -> None:
        self._modules.update(
            (name, module)
            for name, module in sys.modules.items()
            if not name.startswith(("mine_", "test_", "triton", "conftest"))
        )

    def restore(self) -> None:
        for name, module in self._modules.items():
            sys.modules.setdefault(name, module)


RunPytest: TypeAlias = Callable[..., Run]
Install: TypeAlias = Callable[..., None]


@pytest.fixture
def imported() -> Iterator[ImportedModules]:
    """What inner runs have imported; set up before pytester and restored after it."""
    modules = ImportedModules()
    yield modules
    modules.restore()


@pytest.fixture
def install(imported: ImportedModules, pytester: pytest.Pytester) -> Install:
    """Install the backend ``mine``, a distribution on sys.path."""

    def install(
        kernels: str = "",
        *,
        op: str = "rms_norm",
        further: str = "",
        backend: str | None = None,
        declaration: str | None = None,
    ) -> None:
        if backend is None:
            backend = f"Backend('mine', ({KERNEL.format(op=op, further=further)},))"
        source = declaration or DECLARATION.format(backend=backend)
        pytester.makepyfile(
            mine_backend=textwrap.dedent(source), mine_kernels=textwrap.dedent(kernels)
        )
        metadata = pytester.mkdir("mine-1.0.dist-info")
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[plait.kernels]\nmine = mine_backend\n")
        pytester.syspathinsert()

    return install


@pytest.fixture
def run_pytest(imported: ImportedModules, pytester: pytest.Pytester) -> RunPytest:
    """Run pytest on a file of tests, that of the backend ``mine`` unless told otherwise."""

    def run(*options: str, tests: str = CONFORMANCE) -> Run:
        file = pytester.makepyfile(test_mine=textwrap.dedent(tests))
        arguments = ("-p", "no:cacheprovider", *options, str(file))
        result = pytester.runpytest_inprocess(*arguments, plugins=[imported])
        imported.restore()
        recorder = getattr(result, "reprec")  # noqa: B009  # not declared
        passed, _, failed = recorder.listoutcomes()
        return Run(
            passed={report.nodeid.partition("[")[0].rpartition("::")[2] for report in passed},
            failed={report.nodeid.partition("[")[0].rpartition("::")[2] for report in failed},
            messages="\n".join(report.longreprtext for report in failed),
            output=result.stdout.str(),
            status=int(result.ret),
        )

    return run


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The inputs are so small that threads would do nothing but wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
