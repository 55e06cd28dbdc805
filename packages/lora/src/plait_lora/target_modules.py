"""The deployment's own choice of modules that adapters act on (``lora_target_modules``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plait_kernels.errors import AdapterError, InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from plait_kernels.sites import LoraSite
    from plait_lora.peft_weights import SiteWeights


def check_target_modules(names: Collection[str], sites: Sequence[LoraSite]) -> frozenset[str]:
    """Return the names as a set.

    Raises
    ------
    InputError
        If there are none, or the model has no module of such a name.
    """
    known = {_leaf(site) for site in sites}
    unknown = [names] if isinstance(names, str) else sorted(set(names) - known)
    if unknown or not names:
        msg = (
            f"lora_target_modules is {names!r}; it must be a list of module names of this model: "
            f"{', '.join(sorted(known))}. Leave it out to serve adapters on all of them."
        )
        raise InputError(msg)
    return frozenset(names)


def keep_target_modules(
    weights: Iterable[SiteWeights], names: frozenset[str], where: str
) -> tuple[SiteWeights, ...]:
    """Return the weights at modules of these names.

    Raises
    ------
    AdapterError
        If nothing is left: the adapter would answer as the base model does.
    """
    kept = tuple(each for each in weights if _leaf(each.site) in names)
    if not kept:
        msg = (
            f"{where}: it has no weights for any of lora_target_modules ({', '.join(sorted(names))}"
            "), so it would answer as the base model does. Add its modules to lora_target_modules."
        )
        raise AdapterError(msg)
    return kept


def _leaf(site: LoraSite) -> str:
    return site.name.rpartition(".")[2]
