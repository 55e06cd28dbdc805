"""Check what a plugin's hook returned: a plugin need not be type-checked, any field holds anything.

A declaration is right or refused as a whole, so that a backend never runs with a part of what its
author meant.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from plait_kernels.backend import API_VERSION, Backend, Kernel
from plait_kernels.config import DTYPES
from plait_kernels.containment import show
from plait_kernels.device import DEVICE_TYPES
from plait_kernels.ops import OPS
from plait_kernels.request import AUTO, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names that can be written in a request, and read in a log."""

FACTORY: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""``module:function``."""


class Rejected(Exception):
    """A backend is not loaded.

    Attributes
    ----------
    reason, remedy : str
    name : str | None
        The backend's own name, where it is known.
    """

    def __init__(self, reason: str, remedy: str, name: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.remedy, self.name = reason, remedy, name


def check_backend(returned: object) -> Backend:
    """Return what a hook returned if it is a backend without a fault.

    Raises
    ------
    Rejected
        It has a fault; the first is named, with what is allowed.
    """
    if not isinstance(returned, Backend):
        reason = f"its hook returned {type(returned).__name__}, not a plait_kernels.Backend"
        remedy = "return one Backend from plait_kernel_backend; each has an entry point of its own"
        raise Rejected(reason, remedy)
    name = returned.name
    if not isinstance(name, str) or not NAME.fullmatch(name) or name == AUTO:
        reason = f"its name {show(name)} cannot be written in a request"
        raise Rejected(
            reason,
            "choose a name of 1 to 64 of the characters A-Z a-z 0-9 . _ -, with a letter or digit "
            f"first, other than {AUTO!r}",
        )
    _check_version(returned)
    if not isinstance(returned.kernels, tuple):
        reason = f"its kernels are of type {type(returned.kernels).__name__}, not a tuple"
        raise Rejected(reason, "give Backend.kernels a tuple of Kernel", name)
    if not returned.kernels:
        reason = "it declares no kernels"
        raise Rejected(reason, "give Backend.kernels a tuple of at least one Kernel", name)
    if not callable(returned.probe):
        reason = f"its probe is {show(returned.probe)}, which cannot be called"
        raise Rejected(reason, "give Backend.probe a function of a Device, or leave it out", name)
    if not isinstance(returned.automatic, bool):
        reason = f"its automatic is {show(returned.automatic)}"
        raise Rejected(reason, "write Backend.automatic as True or False", name)
    for kernel in returned.kernels:
        _check_kernel(kernel, name)
    return returned


def _check_version(backend: Backend) -> None:
    version, name = backend.api_version, backend.name
    if not _is_integer(version):
        reason = f"its api_version is {show(version)}"
        raise Rejected(reason, f"write the number that it is made for: {API_VERSION}", name)
    if version != API_VERSION:
        reason = f"it is made for API version {version}, this plait has {API_VERSION}"
        newer = "plait-kernels" if version > API_VERSION else "the backend"
        raise Rejected(reason, f"upgrade {newer}", name)


def _check_kernel(kernel: object, name: str) -> None:
    if not isinstance(kernel, Kernel):
        reason = f"its kernels hold {type(kernel).__name__}, not a plait_kernels.Kernel"
        raise Rejected(reason, "give Backend.kernels a tuple of Kernel", name)
    if not isinstance(kernel.op, str) or kernel.op not in OPS:
        hint = nearest(kernel.op, OPS) if isinstance(kernel.op, str) else ""
        reason = f"it has a kernel for the unknown op {show(kernel.op)}{hint}"
        remedy = f"use one of {', '.join(OPS)}, or upgrade plait-kernels"
        raise Rejected(reason, remedy, name)
    fault, remedy = next(filter(None, _faults(kernel, name)), ("", ""))
    if fault:
        reason = f"of its kernel for {kernel.op} {fault}"
        raise Rejected(reason, remedy, name)


def _faults(kernel: Kernel, name: str) -> Sequence[tuple[str, str] | None]:
    return (
        _fault_of_factory(kernel.factory),
        _fault_of_names("devices", kernel.devices, DEVICE_TYPES),
        _fault_of_names("dtypes", kernel.dtypes, DTYPES),
        _fault_of_capability(kernel),
        None
        if callable(kernel.supports)
        else (
            f"supports is {show(kernel.supports)}, which cannot be called",
            "give it a function of an OpConfig that returns a tuple of reasons, or leave it out",
        ),
        None
        if _is_integer(kernel.priority)
        else (f"priority is {show(kernel.priority)}", "write it as an int, such as 10"),
        None
        if isinstance(kernel.graph_safe, bool)
        else (f"graph_safe is {show(kernel.graph_safe)}", "write it as True or False"),
        _fault_of_uses(kernel.uses, name),
    )


def _fault_of_factory(factory: object) -> tuple[str, str] | None:
    if isinstance(factory, str) and FACTORY.fullmatch(factory):
        return None
    return f"the factory is {show(factory)}", "write it as a text, 'module:function'"


def _fault_of_names(what: str, declared: object, known: Sequence[str]) -> tuple[str, str] | None:
    allowed = ", ".join(map(repr, known))
    remedy = f"use some of {allowed}, or leave {what} out for all of them"
    # A tuple only: a text would be taken letter by letter, an iterator be empty the second time.
    if not isinstance(declared, tuple):
        comma = (
            f": write ({declared!r},)" if isinstance(declared, str) and declared in known else ""
        )
        return f"{what} is {show(declared)}, not a tuple of texts{comma}", remedy
    if not declared:
        return f"{what} is empty, so nothing could run it", remedy
    for one in declared:
        if not isinstance(one, str) or one not in known:
            hint = nearest(one, known) if isinstance(one, str) else ""
            return f"{what} has the unknown {show(one)}{hint}", remedy
    return None


def _fault_of_capability(kernel: Kernel) -> tuple[str, str] | None:
    low, high = kernel.min_capability, kernel.max_capability
    remedy = "write a bound as (major, minor), such as (8, 0), or leave it out"
    for what, bound in (("min_capability", low), ("max_capability", high)):
        if bound is None:
            continue
        if (
            not isinstance(bound, tuple)
            or len(bound) != 2
            or not all(_is_integer(number) and number >= 0 for number in bound)
        ):
            return f"{what} is {show(bound)}", remedy
    if low is not None and high is not None and low > high:
        return f"min_capability {low} is more than max_capability {high}", "exchange them"
    return None


def _fault_of_uses(uses: object, name: str) -> tuple[str, str] | None:
    remedy = "name the other backends that it hands work to, such as ('torch',), or leave uses out"
    if not isinstance(uses, tuple):
        return f"uses is {show(uses)}, not a tuple of names of backends", remedy
    for one in uses:
        if not isinstance(one, str) or not NAME.fullmatch(one):
            return f"uses has {show(one)}, which names no backend", remedy
        if one == name:
            return f"uses names its own backend {name!r}", remedy
    return None


def _is_integer(value: object) -> bool:
    # A bool is an int to Python, and no number to whoever wrote it.
    return isinstance(value, int) and not isinstance(value, bool)
