"""What a backend declares: plain frozen data, no torch and no kernel library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from plait_kernels.config import DTYPES, OpConfig
from plait_kernels.device import DEVICE_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait_kernels.device import Device

API_VERSION = 1
"""Version of the contract between plait and a backend; a backend names the one it was made for."""

Reasons: TypeAlias = tuple[str, ...]
"""Why something cannot be used. Empty means that it can."""


def supports_everything(config: OpConfig) -> Reasons:
    """Accept any config."""
    return ()


def usable_anywhere(device: Device) -> Reasons:
    """Accept any device."""
    return ()


@dataclass(frozen=True)
class Kernel:
    """One implementation of one op.

    Attributes
    ----------
    op : str
        Name of the op.
    factory : str
        ``"module:function"``; imported when the kernel is chosen. ``function(config)`` returns
        the implementation that the op's contract describes. It may compile and allocate. If it
        raises, the kernel has a reason against it and the next candidate is taken; a
        ``plait_kernels.errors.BackendUnusable`` is a reason against every kernel of the backend.
    devices : tuple[str, ...]
        Device types it runs on: some of ``"cpu"`` and ``"cuda"``.
    dtypes : tuple[str, ...]
        Activation dtypes it takes: some of ``DTYPES``.
    min_capability, max_capability : tuple[int, int] | None
        Inclusive range of CUDA compute capability, None = no bound.
    supports : Callable[[OpConfig], Reasons]
        Further reasons against a config. Reads no environment variable.
    priority : int
        Auto takes the highest of the kernels that can; the backend's name breaks ties, and among
        kernels of one backend the order in which they are declared.
    graph_safe : bool
        Whether calls may be captured in a CUDA graph.
    uses : tuple[str, ...]
        Names of other backends that it hands a part of its work to. Whoever asks for this kernel by
        name gets those too, so this is shown wherever the choice is.
    """

    op: str
    factory: str
    devices: tuple[str, ...] = DEVICE_TYPES
    dtypes: tuple[str, ...] = DTYPES
    min_capability: tuple[int, int] | None = None
    max_capability: tuple[int, int] | None = None
    supports: Callable[[OpConfig], Reasons] = supports_everything
    priority: int = 0
    graph_safe: bool = False
    uses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Backend:
    """A distribution's kernels under one name.

    Attributes
    ----------
    name : str
        What users write in ``kernels=``: letters, digits, ``.``, ``_`` and ``-``.
    kernels : tuple[Kernel, ...]
        At least one. An op may have several kernels, for different devices or configs.
    api_version : int
        The ``API_VERSION`` that the backend was written for.
    probe : Callable[[Device], Reasons]
        Reasons why the backend cannot be used on this machine (a missing library, …). It looks and
        changes nothing: it compiles, downloads and allocates nothing. It is asked only where one of
        the backend's kernels may be chosen.
    automatic : bool
        Whether auto may pick it; False means by name only.
    """

    name: str
    kernels: tuple[Kernel, ...]
    api_version: int = API_VERSION
    probe: Callable[[Device], Reasons] = usable_anywhere
    automatic: bool = True
