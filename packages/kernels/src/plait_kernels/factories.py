"""Factories: turn chosen kernels into implementations, and failures into reasons."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

from plait_kernels.containment import describe, is_contained, shorten
from plait_kernels.errors import BackendUnusable
from plait_kernels.ops.calls import objection
from plait_kernels.table import Candidate, describe_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait_kernels.config import OpConfig

logger = logging.getLogger(__name__)


class CannotMake(Exception):
    """A kernel could not be made; the message is the reason against it."""


class Factories:
    """Imports and calls the factories of one engine's kernels.

    A factory that cannot be imported, and a backend that said that it cannot be used, are
    remembered: neither is tried again for the next config.
    """

    def __init__(self) -> None:
        self._functions: dict[str, Callable[[OpConfig], object] | CannotMake] = {}
        self._unusable: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()

    def make(self, candidate: Candidate, config: OpConfig) -> object:
        """Return the implementation of a kernel for one config.

        Raises
        ------
        CannotMake
            The factory cannot be imported, raises, or returns what the op's contract does not
            allow. Logged at WARNING, the same reason once.
        """
        name, factory = candidate.backend.name, candidate.kernel.factory
        if name in self._unusable:
            raise CannotMake(self._unusable[name])
        function = self._function(name, factory)
        try:
            made = function(config)
            wrong = objection(config.op, made)
        except BackendUnusable as error:
            reason = self._unusable[name] = shorten(str(error)) or describe(error)
            self._tell(name, config, reason)
            raise CannotMake(reason) from error
        except BaseException as error:
            if not is_contained(error):
                raise
            raise self._failed(name, config, f"{factory} raised {describe(error)}") from error
        if wrong:
            raise self._failed(name, config, f"{factory} {wrong}")
        return made

    def _function(self, name: str, factory: str) -> Callable[[OpConfig], object]:
        known = self._functions.get(factory)
        if known is None:
            known = self._functions[factory] = self._import(name, factory)
        if isinstance(known, CannotMake):
            raise known
        return known

    def _import(self, name: str, factory: str) -> Callable[[OpConfig], object] | CannotMake:
        module, _, function = factory.partition(":")
        try:
            found: Callable[[OpConfig], object] = getattr(importlib.import_module(module), function)
        except BaseException as error:
            if not is_contained(error):
                raise
            reason = f"its factory {factory} cannot be imported: {describe(error)}"
            self._tell(name, None, reason)
            return CannotMake(reason)
        return found

    def _failed(self, name: str, config: OpConfig, what: str) -> CannotMake:
        reason = f"its factory {what}"
        self._tell(name, config, reason)
        return CannotMake(reason)

    def _tell(self, name: str, config: OpConfig | None, reason: str) -> None:
        if (name, reason) in self._told:
            return
        self._told.add((name, reason))
        call = describe_call(config.op, config.dtype, config.params) if config else "any call"
        logger.warning("backend %r could not make its kernel for %s: %s", name, call, reason)
        logger.debug("where it failed", exc_info=True)
