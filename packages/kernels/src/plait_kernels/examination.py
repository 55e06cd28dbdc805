"""What each kernel can, on one device, with the reasons against it. Nothing is imported or made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from plait_kernels.containment import describe, is_contained, shorten, show
from plait_kernels.request import ANY
from plait_kernels.table import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from plait_kernels.backend import Backend, Kernel, Reasons
    from plait_kernels.config import OpConfig
    from plait_kernels.device import Device
    from plait_kernels.loader import LoadedBackends

logger = logging.getLogger(__name__)


def explain(
    configs: Iterable[OpConfig], loaded: LoadedBackends, device: Device
) -> Mapping[OpConfig, tuple[Candidate, ...]]:
    """Return for each config every kernel there is, with the reasons against it.

    Every backend is probed, also one that no request would mean.
    """
    examination = Examination(loaded, device)
    return {config: examination.candidates(config) for config in configs}


class Examination:
    """Looks at kernels for one device; a backend is probed once, when it first matters.

    Parameters
    ----------
    loaded : LoadedBackends
    device : Device
    """

    def __init__(self, loaded: LoadedBackends, device: Device) -> None:
        self._loaded, self._device = loaded, device
        self._probed: dict[str, Reasons] = {}
        self._told: set[str] = set()

    def candidates(
        self, config: OpConfig, names: tuple[str, ...] | None = None
    ) -> tuple[Candidate, ...]:
        """Return the kernels for a config, with the reasons against them.

        Parameters
        ----------
        config : OpConfig
        names : tuple[str, ...] | None
            The backends to look at; ``"*"`` = every one that auto may take. Those are probed that
            declare the kernel for a device like this one. None = look at all, and probe each.
        """
        return tuple(
            Candidate(backend, kernel, self._against(backend, kernel, config, names is None))
            for backend in self._loaded.backends
            if names is None or _is_meant(backend, names)
            for kernel in backend.kernels
            if kernel.op == config.op
        )

    def _against(
        self, backend: Backend, kernel: Kernel, config: OpConfig, probes_all: bool
    ) -> Reasons:
        asked = probes_all or self._device.type in kernel.devices
        probed = self._probe(backend) if asked else ()
        reasons = (*probed, *self._objections(backend, kernel, config))
        for name in kernel.uses if asked else ():
            reasons += tuple(f"uses {name!r}: {reason}" for reason in self._against_used(name))
        return reasons

    def _against_used(self, name: str) -> Reasons:
        used = self._loaded.get(name)
        if used is not None:
            return self._probe(used)
        failure = self._loaded.failure(name)
        return (str(failure) if failure else "no such backend is installed",)

    def _probe(self, backend: Backend) -> Reasons:
        if backend.name not in self._probed:
            answer = self._ask(backend, "probe", backend.probe, self._device)
            self._probed[backend.name] = answer
        return self._probed[backend.name]

    def _objections(self, backend: Backend, kernel: Kernel, config: OpConfig) -> Reasons:
        if self._device.type not in kernel.devices:
            # Further reasons would only distract: capability and dtypes are meant for its devices.
            return (f"runs on {' and '.join(kernel.devices)}, not on {self._device.type}",)
        reasons = []
        if config.dtype not in kernel.dtypes:
            reasons.append(f"takes {', '.join(kernel.dtypes)}, not {config.dtype}")
        reasons.extend(_capability_objections(kernel, self._device))
        reasons.extend(self._ask(backend, "supports()", kernel.supports, config))
        return tuple(reasons)

    def _ask(
        self, backend: Backend, what: str, predicate: Callable[..., object], about: object
    ) -> Reasons:
        try:
            return _reasons(f"its {what}", predicate(about))
        except BaseException as error:
            if not is_contained(error):
                raise
            reason = f"its {what} raised {describe(error)}"
            told = f"{backend.name}: {reason}"
            if told not in self._told:
                self._told.add(told)
                logger.warning("backend %r: %s", backend.name, reason, exc_info=True)
            return (reason,)


def _is_meant(backend: Backend, names: tuple[str, ...]) -> bool:
    return backend.name in names or (backend.automatic and ANY in names)


def _reasons(source: str, answer: object) -> Reasons:
    # A plugin need not be type-checked. A text, from a forgotten comma, would be taken letter by
    # letter, and a bool would mean the opposite of what its author thinks.
    if isinstance(answer, tuple | list) and all(isinstance(reason, str) for reason in answer):
        return tuple(map(shorten, answer))
    return (f"{source} returned {show(answer)}, not a tuple of reasons; report this to its makers",)


def _capability_objections(kernel: Kernel, device: Device) -> Reasons:
    low, high = kernel.min_capability, kernel.max_capability
    if device.type != "cuda" or (low is None and high is None):
        return ()
    if device.capability is None:
        return ("needs a known compute capability",)
    got = ".".join(map(str, device.capability))
    if low is not None and device.capability < low:
        return (f"needs compute capability {low[0]}.{low[1]} or higher, not {got}",)
    if high is not None and device.capability > high:
        return (f"needs compute capability {high[0]}.{high[1]} or lower, not {got}",)
    return ()
