"""ConformanceSession: what one run of pytest knows about backends, and which cases it runs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from plait_kernels.errors import KernelError
from plait_kernels.loader import LoadedBackends, load_backends
from plait_kernels.probe import default_device, device_of
from plait_kernels.selection import explain
from plait_testing.cases import load_cases
from plait_testing.references import References
from plait_testing.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plait_kernels.backend import Backend, Kernel, Reasons
    from plait_kernels.config import OpConfig
    from plait_kernels.device import Device
    from plait_testing.case import Case
    from plait_testing.conformance import KernelConformance


class ConformanceSession:
    """Loads backends once and decides what is run for each class."""

    def __init__(self) -> None:
        self._references = References()
        self._subjects: dict[type[KernelConformance], tuple[Subject, ...]] = {}
        self._idle: dict[type[KernelConformance], str] = {}

    @cached_property
    def loaded(self) -> LoadedBackends:
        """Everything that is installed."""
        return load_backends()

    def why_missing(self, name: str) -> str:
        """Say why a backend cannot be tested; empty if it can."""
        if self.loaded.get(name) is not None:
            return ""
        failure = self.loaded.failure(name)
        if failure is not None:
            return str(failure)
        names = ", ".join(backend.name for backend in self.loaded.backends)
        failed = "".join(f"; {failure}" for failure in self.loaded.failures)
        return (
            f"no backend is called {name!r}; there are {names}; install the distribution whose "
            f"entry point of group plait.kernels brings it, or correct the name{failed}"
        )

    def kernels(self, cls: type[KernelConformance]) -> dict[str, Kernel]:
        """Return the kernels that a class looks at, by a name that is unique within the backend."""
        backend = self.loaded.get(cls.backend)
        if backend is None:
            return {}
        of_op = [kernel.op for kernel in backend.kernels]
        return {
            kernel.op if of_op.count(kernel.op) == 1 else f"{kernel.op}:{kernel.factory}": kernel
            for kernel in backend.kernels
            if cls.narrowing is None or cls.narrowing.takes_op(kernel.op)
        }

    def device(self, cls: type[KernelConformance]) -> Device:
        """Return the device on which a class runs.

        Raises
        ------
        KernelError
            There is no such device here.
        """
        return default_device() if cls.device == "auto" else device_of(cls.device)

    def subjects(self, cls: type[KernelConformance]) -> tuple[Subject, ...]:
        """Return every kernel of a class with every case that it takes."""
        if cls not in self._subjects:
            refusals: dict[str, None] = {}
            try:
                device = self.device(cls)
                self._subjects[cls] = tuple(self._subjects_on(device, cls, refusals))
            except KernelError as error:
                refusals[str(error)] = None
                self._subjects[cls] = ()
            found = "; ".join(refusals) or "its narrowing leaves nothing"
            self._idle[cls] = "" if self._subjects[cls] else found
        return self._subjects[cls]

    def why_idle(self, cls: type[KernelConformance]) -> str:
        """Say why a class has no case to run; empty if it has one."""
        self.subjects(cls)
        return self._idle[cls]

    def _subjects_on(
        self, device: Device, cls: type[KernelConformance], refusals: dict[str, None]
    ) -> Iterator[Subject]:
        backend = self.loaded.get(cls.backend)
        for kernel in self.kernels(cls).values():
            assert backend is not None, "a kernel has a backend"
            reasons = _reasons(self.loaded, backend, kernel, device)
            for case, dtype, bucket in _variants(kernel.op):
                if cls.narrowing is not None and not cls.narrowing.takes(case, dtype, bucket):
                    continue
                against = reasons[case.config(kernel.op, dtype, bucket)]
                if against:
                    refusals.update(dict.fromkeys(against))
                elif case.has_reference:
                    op_cases = load_cases(kernel.op)
                    subject = Subject(
                        cls.backend,
                        kernel,
                        op_cases,
                        case,
                        dtype,
                        bucket,
                        device.type,
                        self._references,
                        is_cut=bool(cls.cuts_digits),
                    )
                    if subject.has_call:
                        yield subject


def _variants(op: str) -> Iterator[tuple[Case, str, str]]:
    op_cases = load_cases(op)
    for dtype in op_cases.dtypes:
        for case in op_cases.cases:
            for bucket in case.buckets:
                yield case, dtype, bucket


def _reasons(
    loaded: LoadedBackends, backend: Backend, kernel: Kernel, device: Device
) -> dict[OpConfig, Reasons]:
    """Return the reasons against a kernel, for the config of every case."""
    configs = [
        case.config(kernel.op, dtype, bucket) for case, dtype, bucket in _variants(kernel.op)
    ]
    used = (found for name in kernel.uses if (found := loaded.get(name)) is not None)
    explained = explain(configs, LoadedBackends((backend, *used)), device)
    return {
        config: candidate.reasons
        for config, candidates in explained.items()
        for candidate in candidates
        if candidate.kernel is kernel
    }
