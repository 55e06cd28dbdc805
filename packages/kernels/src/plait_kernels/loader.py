"""Load the backends that installed distributions bring, each in its own try."""

from __future__ import annotations

import importlib.metadata
import logging
import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Final

import pluggy

from plait_kernels import hookspecs
from plait_kernels.containment import describe, is_contained, show
from plait_kernels.declaration import Rejected, check_backend

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plait_kernels.backend import Backend

logger = logging.getLogger(__name__)

GROUP: Final = "plait.kernels"
"""Group of the entry points that name backends."""

# They also stand in this distribution's metadata; named here as well so that a source tree on
# the path works before it is installed.
BUILT_IN: Final = (
    EntryPoint("reference", "plait_kernels.reference", GROUP),
    EntryPoint("torch", "plait_kernels.torch_backend", GROUP),
)

VALUE: Final = re.compile(r"\s*\w+(\.\w+)*\s*(:\s*\w+(\.\w+)*\s*)?(\[[^\]]*\]\s*)?")
"""What an entry point may name: ``module`` or ``module:object``."""


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
        except Rejected as error:
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
        for entry_point in _installed()
        if (entry_point.name, entry_point.value) not in built_in
    )
    # Of two backends of one name the first is kept: the order must not depend on sys.path.
    return (*BUILT_IN, *sorted(installed, key=lambda found: (found.name, found.value)))


def _installed() -> Iterable[EntryPoint]:
    try:
        return importlib.metadata.entry_points(group=GROUP)
    except Exception:
        # One distribution's damaged file spoils the list for everybody: read them one by one.
        return [found for each in importlib.metadata.distributions() for found in _of(each)]


def _of(distribution: importlib.metadata.Distribution) -> Iterable[EntryPoint]:
    try:
        return distribution.entry_points.select(group=GROUP)
    except Exception as error:
        # Private in older Pythons; for the message only.
        folder = getattr(distribution, "_path", "a distribution")
        logger.warning("entry points of %s cannot be read: %s", folder, describe(error))
        return ()


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
    if not VALUE.fullmatch(entry_point.value):
        reason = f"its entry point names {show(entry_point.value)}, which is no module"
        raise Rejected(reason, f"report this to the makers of {owner}: write 'module'")
    try:
        plugin = entry_point.load()
    except BaseException as error:
        if not is_contained(error):
            raise
        reason = f"importing {entry_point.value} raised {describe(error)}"
        remedy = f"repair or uninstall {owner}, or install what it needs"
        raise Rejected(reason, remedy) from error
    return _check(_declare(plugin, entry_point, owner))


def _declare(plugin: object, entry_point: EntryPoint, owner: str) -> object:
    # A manager of its own: pluggy stops at the first plugin that raises.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(plugin, entry_point.name)
        manager.check_pending()
        declared = bool(manager.hook.plait_kernel_backend.get_hookimpls())
        returned = manager.hook.plait_kernel_backend()
    except BaseException as error:
        if not is_contained(error):
            raise
        reason = f"its hook plait_kernel_backend raised {describe(error)}"
        raise Rejected(reason, f"report this to the makers of {owner}") from error
    if not declared:
        reason = f"{entry_point.value} does not implement the hook plait_kernel_backend"
        remedy = "mark the function with plait_kernels.hookimpl, and name its module"
        raise Rejected(reason, remedy)
    return returned[0] if returned else None


def _check(declared: object) -> Backend:
    try:
        return check_backend(declared)
    # A subclass of Backend may compute its fields.
    except (AttributeError, TypeError, ValueError) as error:
        reason = f"its declaration is malformed: {describe(error)}"
        raise Rejected(reason, "give the fields of Backend and Kernel their types") from error


def _check_unique(backend: Backend, origins: dict[str, str]) -> None:
    if backend.name in origins:
        reason = f"{backend.name!r} is already the backend of {origins[backend.name]}"
        remedy = "uninstall one of the two distributions, or rename its backend"
        raise Rejected(reason, remedy, backend.name)
