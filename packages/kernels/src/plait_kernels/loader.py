"""Load the backends that installed distributions bring, each in its own try."""

from __future__ import annotations

import importlib.metadata
import logging
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Final

import pluggy

from plait_kernels import hookspecs
from plait_kernels.backend import API_VERSION, Backend, Kernel
from plait_kernels.ops import OPS

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

GROUP: Final = "plait.kernels"
"""Group of the entry points that name backends."""

# They also stand in this distribution's metadata; named here as well so that a source tree on
# the path works before it is installed.
BUILT_IN: Final = (
    EntryPoint("reference", "plait_kernels.reference", GROUP),
    EntryPoint("torch", "plait_kernels.torch_backend", GROUP),
)

# A name with one of these could not be written in a request.
RESERVED: Final = frozenset(",;=*")


@dataclass(frozen=True)
class Failure:
    """A backend that could not be loaded.

    Attributes
    ----------
    name : str
        The backend's name, or the entry point's if the backend never came to tell its own.
    origin : str
        Where it comes from: entry point and distribution.
    reason : str
        What went wrong.
    remedy : str
        What to do about it.
    """

    name: str
    origin: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"backend {self.name!r} ({self.origin}) was not loaded: {self.reason}; {self.remedy}"


@dataclass(frozen=True)
class LoadedBackends:
    """What loading brought.

    Attributes
    ----------
    backends : tuple[Backend, ...]
        Those that can be chosen from; names are unique.
    failures : tuple[Failure, ...]
        Those that could not be loaded, and why.
    """

    backends: tuple[Backend, ...]
    failures: tuple[Failure, ...] = ()

    def get(self, name: str) -> Backend | None:
        """Return the backend called ``name``, None if it was not loaded."""
        return next((backend for backend in self.backends if backend.name == name), None)

    def failure(self, name: str) -> Failure | None:
        """Return why the backend called ``name`` was not loaded, None if nothing is known."""
        return next((failure for failure in self.failures if failure.name == name), None)


class _Rejected(Exception):
    def __init__(self, reason: str, remedy: str, name: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.remedy, self.name = reason, remedy, name


def load_backends(entry_points: Iterable[EntryPoint] | None = None) -> LoadedBackends:
    """Load every backend; one that fails is kept as a failure and hinders no other.

    A failure is logged at WARNING with its remedy. No torch is imported.

    Parameters
    ----------
    entry_points : Iterable[EntryPoint] | None
        The entry points to load, in this order. None = the built-in ones, then those of group
        ``plait.kernels`` that installed distributions have.

    Returns
    -------
    LoadedBackends
    """
    backends: dict[str, Backend] = {}
    origins: dict[str, str] = {}
    failures = []
    for entry_point in _discover() if entry_points is None else entry_points:
        try:
            backend = _load(entry_point)
            _check_unique(backend, origins)
        except _Rejected as error:
            name = error.name or entry_point.name
            failure = Failure(name, _origin(entry_point), error.reason, error.remedy)
            logger.warning("%s", failure, exc_info=error.__cause__)
            failures.append(failure)
        else:
            backends[backend.name] = backend
            origins[backend.name] = _origin(entry_point)
    return LoadedBackends(tuple(backends.values()), tuple(failures))


def _discover() -> tuple[EntryPoint, ...]:
    built_in = {(entry_point.name, entry_point.value) for entry_point in BUILT_IN}
    installed = (
        entry_point
        for entry_point in importlib.metadata.entry_points(group=GROUP)
        if (entry_point.name, entry_point.value) not in built_in
    )
    # Of two backends of one name the first is kept: the order must not depend on sys.path.
    return (*BUILT_IN, *sorted(installed, key=lambda found: (found.name, found.value)))


def _origin(entry_point: EntryPoint) -> str:
    origin = f"entry point {entry_point.name} = {entry_point.value}"
    distribution = _distribution(entry_point)
    return f"{origin} of {' '.join(distribution)}" if distribution else origin


def _distribution(entry_point: EntryPoint) -> tuple[str, str] | None:
    dist = entry_point.dist
    # Of damaged metadata the name is None, or cannot be read, depending on the version of Python.
    try:
        return (dist.name, dist.version) if dist is not None and dist.name else None
    except Exception:
        return None


def _load(entry_point: EntryPoint) -> Backend:
    distribution = _distribution(entry_point)
    owner = distribution[0] if distribution else "the distribution that brings it"
    try:
        plugin = entry_point.load()
    except (Exception, SystemExit) as error:
        reason = f"importing {entry_point.value} raised {_describe(error)}"
        remedy = f"repair or uninstall {owner}, or install what it needs"
        raise _Rejected(reason, remedy) from error
    # A manager of its own: pluggy stops at the first plugin that raises.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, entry_point.name)
        manager.check_pending()
        declared = bool(manager.hook.plait_kernel_backend.get_hookimpls())
        returned = manager.hook.plait_kernel_backend()
    except (Exception, SystemExit) as error:
        reason = f"its hook plait_kernel_backend raised {_describe(error)}"
        raise _Rejected(reason, f"report this to the makers of {owner}") from error
    if not declared:
        reason = f"{entry_point.value} does not implement the hook plait_kernel_backend"
        raise _Rejected(reason, "mark the function with plait_kernels.hookimpl")
    try:
        return _check(returned[0] if returned else None)
    # A plugin need not be type-checked: any field may hold anything.
    except (AttributeError, TypeError, ValueError) as error:
        reason = f"its declaration is malformed: {_describe(error)}"
        raise _Rejected(reason, "give the fields of Backend and Kernel their types") from error


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _check(backend: object) -> Backend:
    if not isinstance(backend, Backend):
        reason = f"its hook returned {type(backend).__name__}, not a plait_kernels.Backend"
        raise _Rejected(reason, "return a Backend from plait_kernel_backend")
    name = backend.name
    if backend.api_version != API_VERSION:
        reason = f"it is made for API version {backend.api_version}, this plait has {API_VERSION}"
        newer = "plait-kernels" if backend.api_version > API_VERSION else "the backend"
        raise _Rejected(reason, f"upgrade {newer}", name)
    if not name or name != name.strip() or RESERVED & set(name):
        reason = f"its name {name!r} cannot be written in a request"
        raise _Rejected(reason, f"choose a name without any of {' '.join(sorted(RESERVED))}")
    for kernel in backend.kernels:
        _check_kernel(kernel, name)
    return backend


def _check_kernel(kernel: object, name: str) -> None:
    if not isinstance(kernel, Kernel):
        reason = f"its kernels hold {type(kernel).__name__}, not a plait_kernels.Kernel"
        raise _Rejected(reason, "give Backend.kernels a tuple of Kernel", name)
    if kernel.op not in OPS:
        reason = f"it has a kernel for the unknown op {kernel.op!r}; known ops: {', '.join(OPS)}"
        raise _Rejected(reason, "correct the name of the op, or upgrade plait-kernels", name)
    module, colon, function = kernel.factory.partition(":")
    if not (module and colon and function):
        reason = f"the factory of its kernel for {kernel.op} is {kernel.factory!r}"
        raise _Rejected(reason, "write it as 'module:function'", name)


def _check_unique(backend: Backend, origins: dict[str, str]) -> None:
    if backend.name in origins:
        reason = f"{backend.name!r} is already the backend of {origins[backend.name]}"
        remedy = "uninstall one of the two distributions, or rename its backend"
        raise _Rejected(reason, remedy, backend.name)
