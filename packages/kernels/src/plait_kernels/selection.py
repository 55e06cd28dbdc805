"""Choose a kernel for every op of an engine, once, before the first step."""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from plait_kernels.containment import shorten
from plait_kernels.errors import KernelError, KernelRequestError
from plait_kernels.examination import Examination, explain
from plait_kernels.factories import CannotMake, Factories
from plait_kernels.ops import OPS
from plait_kernels.request import ANY, KernelRequest, nearest
from plait_kernels.table import Candidate, Choice, KernelTable, describe_call

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from plait_kernels.config import OpConfig
    from plait_kernels.device import Device
    from plait_kernels.loader import LoadedBackends

__all__ = ["check_names", "choose", "explain", "pick", "refusal", "select", "settle"]

logger = logging.getLogger(__name__)

# The backend that runs everywhere, and is slow where there is an accelerator.
FALLBACK: Final = "torch"


class Settled(NamedTuple):
    """What became of the candidates for one config.

    Attributes
    ----------
    chosen : Candidate | None
        None if none can be used.
    candidates : tuple[Candidate, ...]
        All that were given, with the reasons that trying to make them brought.
    made : object
        The implementation of the chosen one; None where nothing is to be made.
    """

    chosen: Candidate | None
    candidates: tuple[Candidate, ...]
    made: Any


def select(
    configs: Iterable[OpConfig],
    loaded: LoadedBackends,
    request: KernelRequest,
    device: Device,
) -> KernelTable:
    """Choose and make a kernel for every config.

    Kernels that cannot be used are dropped, with the reasons. Of the others the request's first
    usable backend is taken, or by auto the highest priority; ties go to the first name. The
    factory of what is taken is called; if it fails, that is a reason against this kernel, and the
    choice goes on with the others that the request allows.

    Parameters
    ----------
    configs : Iterable[OpConfig]
        Everything the engine will call; repeated configs count once.
    loaded : LoadedBackends
    request : KernelRequest
    device : Device
        Where the kernels will run.

    Returns
    -------
    KernelTable

    Raises
    ------
    KernelError
        Nothing can be used; the message lists every candidate with its reasons.
    KernelRequestError
        The same of what a user asked for; or a backend that is asked for is unknown or was not
        loaded.
    """
    made: dict[OpConfig, Any] = {}
    choices = _choose(configs, loaded, request, device, Factories(), made)
    by_config = {choice.config: choice for choice in choices}
    return KernelTable(MappingProxyType(by_config), MappingProxyType(made))


def choose(
    configs: Iterable[OpConfig],
    loaded: LoadedBackends,
    request: KernelRequest,
    device: Device,
) -> tuple[Choice, ...]:
    """Choose as ``select`` does if no factory fails, and import no kernel."""
    return _choose(configs, loaded, request, device, None, {})


def settle(
    config: OpConfig,
    candidates: Iterable[Candidate],
    names: tuple[str, ...],
    factories: Factories | None,
) -> Settled:
    """Pick a candidate and make it; one that cannot be made gets a reason, and another is picked.

    Parameters
    ----------
    config : OpConfig
    candidates : Iterable[Candidate]
        For this config.
    names : tuple[str, ...]
        Backends in order of preference; ``"*"`` = auto.
    factories : Factories | None
        Makes the kernels; None = make nothing.
    """
    tried = list(candidates)
    while (chosen := pick(tried, names)) is not None and factories is not None:
        try:
            return Settled(chosen, tuple(tried), factories.make(chosen, config))
        except CannotMake as error:
            place = next(i for i, candidate in enumerate(tried) if candidate is chosen)
            tried[place] = Candidate(chosen.backend, chosen.kernel, (str(error),))
    return Settled(chosen, tuple(tried), None)


def pick(candidates: Sequence[Candidate], names: tuple[str, ...]) -> Candidate | None:
    """Return the usable candidate that a list of backends means, None if there is none.

    Parameters
    ----------
    candidates : Sequence[Candidate]
        For one config.
    names : tuple[str, ...]
        Backends in order of preference; ``"*"`` = auto.
    """
    usable = sorted(
        (candidate for candidate in candidates if not candidate.reasons),
        key=lambda candidate: (-candidate.kernel.priority, candidate.backend.name),
    )
    for name in names:
        for candidate in usable:
            if candidate.backend.automatic if name == ANY else candidate.backend.name == name:
                return candidate
    return None


def check_names(request: KernelRequest, loaded: LoadedBackends) -> None:
    """Raise a KernelRequestError unless every backend that a request names was loaded."""
    known = [backend.name for backend in loaded.backends]
    failed = [failure.name for failure in loaded.failures]
    for _, names in request.choices:
        for name in names:
            if name in known or name == ANY:
                continue
            failure = loaded.failure(name)
            if failure is not None:
                msg = f"{request.quoted} cannot be honoured: {failure}"
                raise KernelRequestError(msg)
            listed = "".join(f"; {failure}" for failure in loaded.failures)
            shown = repr(shorten(name))
            op = name.partition(":")[0].strip()
            hint = nearest(name, [*known, *failed])
            if op in OPS:
                hint = f" ({op!r} is an op: write '{op}=BACKEND')"
            msg = (
                f"unknown backend {shown} in {request.quoted}{hint}; there are "
                f"{', '.join(known) or 'none'}; use one of them, or install the distribution that "
                f"brings {shown}{listed}"
            )
            raise KernelRequestError(msg)


def refusal(
    config: OpConfig, candidates: Sequence[Candidate], request: KernelRequest, device: Device
) -> KernelError:
    """Return the error that no candidate can be used as requested, with the reasons of all.

    Parameters
    ----------
    config : OpConfig
    candidates : Sequence[Candidate]
        Every kernel there is for the config.
    request : KernelRequest
    device : Device
    """
    names = request.backends_for(config.op)
    having = {candidate.backend.name for candidate in candidates}
    lacking = [name for name in names if name not in {*having, ANY}]
    lines = [str(candidate) for candidate in candidates]
    lines += [f"{name}: has no kernel for this op" for name in lacking]
    call = describe_call(config.op, config.dtype, config.params)
    where = f"{device.type} ({device.name})" if device.name else device.type
    satisfies = f" satisfies {request.quoted}" if request.choices else ""
    # Of a list that ends in "*" even auto found nothing, so "*" is no remedy.
    remedy = "install a backend that has this op"
    if ANY not in names:
        goes_on = request.with_auto_for(config.op)
        remedy = f"name a usable one, or write {goes_on!r} for auto where {_listed(names)}"
    listed = "".join(f"\n  {line}" for line in lines) or "\n  none"
    kind = KernelRequestError if request.choices else KernelError
    return kind(
        f"no kernel for {call} in {config.bucket} on {where}{satisfies}; "
        f"{remedy}. Candidates:{listed}"
    )


def _listed(names: Sequence[str]) -> str:
    return f"{names[0]} cannot" if len(names) == 1 else f"none of {', '.join(names)} can"


def _choose(
    configs: Iterable[OpConfig],
    loaded: LoadedBackends,
    request: KernelRequest,
    device: Device,
    factories: Factories | None,
    made: dict[OpConfig, Any],
) -> tuple[Choice, ...]:
    """Choose; where there are factories, put what they make into ``made``."""
    check_names(request, loaded)
    examination = Examination(loaded, device)
    choices = []
    for config in dict.fromkeys(configs):
        names = request.backends_for(config.op)
        looked_at = examination.candidates(config, names)
        chosen, candidates, made[config] = settle(config, looked_at, names, factories)
        if chosen is None:
            tried = {id(candidate.kernel): candidate for candidate in candidates}
            everything = (
                tried.get(id(candidate.kernel), candidate)
                for candidate in examination.candidates(config)
            )
            raise refusal(config, tuple(everything), request, device)
        choices.append(Choice(config, chosen, candidates))
    _log_fallbacks(choices, request, device)
    return tuple(choices)


def _log_fallbacks(choices: Sequence[Choice], request: KernelRequest, device: Device) -> None:
    slow: dict[str, set[str]] = {}
    for choice in choices:
        names, name = request.backends_for(choice.config.op), choice.chosen.backend.name
        if name == names[0] or (name != FALLBACK and names[0] == ANY):
            continue
        if name == FALLBACK and device.type == "cuda" and FALLBACK not in names:
            slow.setdefault(choice.config.op, set()).update(map(str, choice.dropped))
        elif names[0] != ANY:
            logger.info("first choice %r was not usable: %s", names[0], choice)
    if slow:
        ops = "\n  ".join(
            f"{op}: {', '.join(sorted(dropped)) or 'no other backend has it'}"
            for op, dropped in slow.items()
        )
        logger.warning(
            "on %s auto falls back to the slow backend %r; install a backend made for this "
            "device, or ask for %r by name to be rid of this warning. Ops:\n  %s",
            device.name or device.type,
            FALLBACK,
            FALLBACK,
            ops,
        )
