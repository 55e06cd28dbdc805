"""Choose a kernel for every op of an engine, once, before the first step."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from plait_kernels.errors import KernelError
from plait_kernels.request import ANY, KernelRequest, nearest
from plait_kernels.table import Candidate, Choice, KernelTable, describe_call

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from plait_kernels.backend import Backend, Kernel, Reasons
    from plait_kernels.config import OpConfig
    from plait_kernels.device import Device
    from plait_kernels.loader import LoadedBackends

logger = logging.getLogger(__name__)

# The backend that runs everywhere, and is slow where there is an accelerator.
FALLBACK: Final = "torch"


def select(
    configs: Iterable[OpConfig],
    loaded: LoadedBackends,
    request: KernelRequest,
    device: Device,
) -> KernelTable:
    """Choose and make a kernel for every config.

    Kernels that cannot be used are dropped, with the reasons. Of the others the request's first
    usable backend is taken, or by auto the highest priority; ties go to the first name.

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
        A backend that is asked for is unknown or was not loaded; nothing that is asked for can
        be used (the message lists every candidate with its reasons); a factory fails.
    """
    return KernelTable.build(choose(configs, loaded, request, device))


def choose(
    configs: Iterable[OpConfig],
    loaded: LoadedBackends,
    request: KernelRequest,
    device: Device,
) -> tuple[Choice, ...]:
    """Choose as ``select`` does, and import no kernel."""
    check_names(request, loaded)
    choices = []
    for config, candidates in explain(configs, loaded, device).items():
        names = request.backends_for(config.op)
        chosen = pick(candidates, names)
        if chosen is None:
            raise KernelError(_impossible(config, candidates, names, device))
        choices.append(Choice(config, chosen, candidates))
    _log_fallbacks(choices, request, device)
    return tuple(choices)


def explain(
    configs: Iterable[OpConfig], loaded: LoadedBackends, device: Device
) -> Mapping[OpConfig, tuple[Candidate, ...]]:
    """Return for each config every kernel there is, with the reasons against it."""
    probed = {backend.name: _probe(backend, device) for backend in loaded.backends}
    return {
        config: tuple(
            Candidate(
                backend, kernel, (*probed[backend.name], *_objections(kernel, config, device))
            )
            for backend in loaded.backends
            for kernel in backend.kernels
            if kernel.op == config.op
        )
        for config in configs
    }


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
    """Raise a KernelError unless every backend that a request names was loaded."""
    known = [backend.name for backend in loaded.backends]
    for op, names in request.choices:
        for name in names:
            if name in known or name == ANY:
                continue
            failure = loaded.failure(name)
            if failure is not None:
                msg = f"kernels='{op}={name}' cannot be honoured: {failure}"
                raise KernelError(msg)
            failed = "".join(f"; {failure}" for failure in loaded.failures)
            msg = (
                f"unknown backend {name!r} in kernels='{op}={','.join(names)}'"
                f"{nearest(name, known)}; there are {', '.join(known) or 'none'}; use one of "
                f"them, or install the distribution that brings {name!r}{failed}"
            )
            raise KernelError(msg)


def _probe(backend: Backend, device: Device) -> Reasons:
    try:
        return _reasons("its probe", backend.probe(device))
    except Exception as error:
        logger.warning("the probe of backend %r failed", backend.name, exc_info=True)
        return (f"its probe raised {type(error).__name__}: {error}",)


def _reasons(source: str, answer: object) -> Reasons:
    # A plugin need not be type-checked. A text, from a forgotten comma, would be taken letter by
    # letter, and a bool would mean the opposite of what its author thinks.
    if isinstance(answer, tuple | list) and all(isinstance(reason, str) for reason in answer):
        return tuple(answer)
    return (f"{source} returned {answer!r}, not a tuple of reasons; report this to its makers",)


def _objections(kernel: Kernel, config: OpConfig, device: Device) -> Reasons:
    if device.type not in kernel.devices:
        # Further reasons would only distract: capability and dtypes are meant for its devices.
        return (f"runs on {' and '.join(kernel.devices)}, not on {device.type}",)
    reasons = []
    if config.dtype not in kernel.dtypes:
        reasons.append(f"takes {', '.join(kernel.dtypes)}, not {config.dtype}")
    reasons.extend(_capability_objections(kernel, device))
    try:
        reasons.extend(_reasons("its supports()", kernel.supports(config)))
    except Exception as error:
        logger.warning("supports() of kernel %r failed", kernel.factory, exc_info=True)
        reasons.append(f"its supports() raised {type(error).__name__}: {error}")
    return tuple(reasons)


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


def _impossible(
    config: OpConfig, candidates: Sequence[Candidate], names: tuple[str, ...], device: Device
) -> str:
    lines = [str(candidate) for candidate in candidates]
    having = {candidate.backend.name for candidate in candidates}
    lines += [f"{name}: has no kernel for this op" for name in names if name not in {*having, ANY}]
    call = describe_call(config.op, config.dtype, config.params)
    asked = f"{config.op}={','.join(names)}"
    where = f"{device.type} ({device.name})" if device.name else device.type
    # Of a list that ends in "*" even auto found nothing, so "*" is no remedy.
    remedy = (
        "name a usable one, or install a backend that has this op"
        if ANY in names
        else f"name a usable one, or end the list with '*' for auto: kernels='{asked},*'"
    )
    listed = "".join(f"\n  {line}" for line in lines) or "\n  none"
    return (
        f"no kernel for {call} in {config.bucket} on {where} satisfies kernels='{asked}'; "
        f"{remedy}. Candidates:{listed}"
    )


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
