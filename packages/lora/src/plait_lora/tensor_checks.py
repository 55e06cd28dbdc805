"""Checks of single tensors in an adapter file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from plait_kernels.errors import AdapterError
from plait_lora.shown import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from plait_kernels.sites import LoraSite
    from plait_lora.site_index import Module, SiteIndex
    from plait_lora.tensor_names import TensorName

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Dtypes that A and B may have in a file."""

BaseWeight: TypeAlias = "Callable[[LoraSite], torch.Tensor | None]"
"""The base model's own weight at a site, to compare a copy in an adapter file with."""

Origin: TypeAlias = "Callable[[LoraSite, torch.Tensor], bool]"
"""Whether the base model's weight at a site was quantised from a tensor."""


@dataclass(frozen=True)
class Sites:
    """The sites of a model as adapters see them.

    Attributes
    ----------
    index : SiteIndex
    served_groups : frozenset[str]
        Site groups at which adapters are served.
    base_weight : BaseWeight | None
        Lets copies of base weights in a file be compared with the model.
    origin : Origin | None
        Of a quantised model: a copy from before it was quantised is as good.
    """

    index: SiteIndex
    served_groups: frozenset[str]
    base_weight: BaseWeight | None = None
    origin: Origin | None = None


def module_of(parsed: TensorName, name: str, sites: Sites, where: str) -> Module:
    """Return the module a tensor belongs to; AdapterError if adapters are not served there."""
    module = sites.index.find(parsed.key)
    if module is None:
        msg = (
            f"{where}: tensor {shown(name)} is of the module {shown(parsed.key)}, which matches "
            "no site of "
            f"this model; its sites are {sites.index.describe()}. "
            "Check that the adapter was trained for this model."
        )
        raise AdapterError(msg)
    group = module.sites[0].group
    if parsed.role != "base" and parsed.embedding != (group == "embed"):
        msg = (
            f"{where}: tensor {shown(name)} is {'' if parsed.embedding else 'not '}of an "
            "embedding, but "
            f"{module.name!r} is {'' if group == 'embed' else 'not '}one in this model. "
            "Check that the adapter was trained for this model."
        )
        raise AdapterError(msg)
    if parsed.role != "base" and group not in sites.served_groups:
        served = {
            other.name.rpartition(".")[2]
            for other in sites.index.modules
            if other.sites[0].group in sites.served_groups
        }
        msg = (
            f"{where}: tensor {shown(name)} targets {module.name!r}, where adapters are not "
            f"served; they are served on {', '.join(sorted(served))}. "
            "Train the adapter without this module."
        )
        raise AdapterError(msg)
    return module


def check_values(name: str, tensor: torch.Tensor, where: str) -> None:
    """Refuse a dtype that no adapter has, and values that are not finite."""
    if tensor.dtype not in DTYPES:
        msg = (
            f"{where}: tensor {shown(name)} has dtype {_name_of(tensor.dtype)}; allowed are "
            f"{', '.join(map(_name_of, DTYPES))}. Convert the adapter."
        )
        raise AdapterError(msg)
    if not tensor.is_meta and not bool(torch.isfinite(tensor).all()):
        count = int((~torch.isfinite(tensor)).sum())
        msg = (
            f"{where}: tensor {shown(name)} has {count} values that are NaN or infinite; "
            "every weight must be finite. Save the adapter from a healthy checkpoint."
        )
        raise AdapterError(msg)


def check_base_copy(
    parsed: TensorName, name: str, tensor: torch.Tensor, module: Module, sites: Sites, where: str
) -> None:
    """Refuse a copy of a base weight that is not, or may not be, the weight that is served.

    Without ``sites.base_weight`` only the weight under an adapted module passes, by its shape:
    training has not touched it.
    """
    site = module.sites[0]
    remedy = "Save the adapter with save_embedding_layers=False."
    if module.inner:
        msg = (
            f"{where}: tensor {shown(name)} replaces a weight of the base model, which plait does "
            "not "
            "serve. Save the adapter with PEFT's save_pretrained, or merge it into a base model."
        )
        raise AdapterError(msg)
    rows = site.in_features if site.group == "embed" else site.out_features
    columns = site.out_features if site.group == "embed" else site.in_features
    if tuple(tensor.shape) != (rows, columns):
        msg = (
            f"{where}: tensor {shown(name)} has shape {shown(list(tensor.shape))} where the base "
            "model has "
            f"[{rows}, {columns}], so the vocabulary was resized; plait serves adapters of the "
            "unchanged base model. Serve the resized model as the base."
        )
        raise AdapterError(msg)
    base = sites.base_weight(site) if sites.base_weight is not None else None
    if base is None:
        if not parsed.wrapped:
            msg = (
                f"{where}: tensor {shown(name)} replaces a weight of the base model, and nothing "
                "shows "
                f"that it equals it. {remedy}"
            )
            raise AdapterError(msg)
        return
    if tensor.is_meta:
        return
    if not (_are_equal(tensor, base.detach().cpu()) or _is_origin(tensor, site, sites)):
        msg = (
            f"{where}: tensor {shown(name)} differs from the weight of the base model that is "
            "served, so the adapter belongs to another base. Serve that base model, or, if the "
            f"weight is there by mistake: {remedy}"
        )
        raise AdapterError(msg)


def _are_equal(copy: torch.Tensor, base: torch.Tensor) -> bool:
    return torch.equal(copy.to(base.dtype), base) or torch.equal(base.to(copy.dtype), copy)


def _is_origin(copy: torch.Tensor, site: LoraSite, sites: Sites) -> bool:
    return sites.origin is not None and copy.dtype in DTYPES and sites.origin(site, copy)


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
