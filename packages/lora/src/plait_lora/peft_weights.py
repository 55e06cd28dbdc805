"""The tensors of a PEFT adapter, checked and brought to the sites of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from plait_kernels.errors import AdapterError
from plait_lora.finite import check_results, check_scale
from plait_lora.shown import shown
from plait_lora.tensor_checks import check_base_copy, check_values, module_of
from plait_lora.tensor_names import parse_tensor_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from plait_kernels.sites import LoraSite
    from plait_lora.peft_config import PeftConfig
    from plait_lora.site_index import SiteIndex
    from plait_lora.tensor_checks import Sites


@dataclass(frozen=True, eq=False)
class SiteWeights:
    """What an adapter does at one site, as in the file.

    Attributes
    ----------
    site : LoraSite
    a : Tensor [rank, in_features]
    b : Tensor [out_features, rank]
    scale : float
    """

    site: LoraSite
    a: torch.Tensor
    b: torch.Tensor
    scale: float


def parse_weights(
    config: PeftConfig, tensors: Mapping[str, torch.Tensor], sites: Sites, where: str
) -> tuple[SiteWeights, ...]:
    """Bring the tensors of an adapter to the sites of a model, every one of them.

    Tensors of the device ``meta`` are checked as far as that goes: names, dtypes and shapes.

    A projection that was trained packed (``qkv_proj``, ``gate_up_proj``) is split by the rows of
    its B; its parts share A.

    Parameters
    ----------
    config : PeftConfig
    tensors : Mapping[str, Tensor]
        By name as in the file.
    sites : Sites
    where : str
        Names the adapter in messages.

    Returns
    -------
    tuple[SiteWeights, ...]
        In order of site index. The tensors are views of those given.

    Raises
    ------
    AdapterError
        If a tensor cannot be used, is missing, or has the wrong shape, dtype or values; if a
        module is not a site of the model, or the config and the tensors name different modules.
    """
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        parsed = parse_tensor_name(name, where)
        if parsed is None:
            continue
        module = module_of(parsed, name, sites, where)
        if parsed.role == "base":
            check_base_copy(parsed, name, tensor, module, sites, where)
            continue
        check_values(name, tensor, where)
        pair = pairs.setdefault(parsed.key, {})
        if parsed.role in pair:
            msg = (
                f"{where}: two tensors are lora_{parsed.role} of {shown(parsed.key)}, one of them "
                f"{shown(name)}. Save one adapter a directory."
            )
            raise AdapterError(msg)
        pair[parsed.role] = tensor
    if not pairs:
        msg = (
            f"{where}: the weights hold no lora_A and lora_B, so the adapter would do nothing. "
            "Save it with PEFT's save_pretrained."
        )
        raise AdapterError(msg)
    found: dict[int, SiteWeights] = {}
    for key, pair in pairs.items():
        for weights in _site_weights(key, pair, config, sites.index, where):
            if weights.site.index in found:
                msg = (
                    f"{where}: {shown(key)} is the second module for the site "
                    f"{weights.site.name!r}. "
                    "Keep one of them."
                )
                raise AdapterError(msg)
            found[weights.site.index] = weights
    _check_selection(config, tuple(pairs), frozenset(found), sites.index, where)
    _check_tying(config, found.values(), where)
    return tuple(found[index] for index in sorted(found))


def _site_weights(
    key: str, pair: Mapping[str, torch.Tensor], config: PeftConfig, index: SiteIndex, where: str
) -> list[SiteWeights]:
    module = index.find(key)
    assert module is not None, "parse_weights has looked it up"
    for role in ("A", "B"):
        if role not in pair:
            msg = (
                f"{where}: {shown(key)} has lora_{'B' if role == 'A' else 'A'} but no lora_{role}; "
                "both are needed. Copy or save the whole adapter again."
            )
            raise AdapterError(msg)
    rank = config.rank_of(key)
    in_features = module.sites[0].in_features
    rows = [site.out_features for site in module.sites]
    expected = {"A": (rank, in_features), "B": (sum(rows), rank)}
    for role, shape in expected.items():
        if tuple(pair[role].shape) != shape:
            msg = (
                f"{where}: lora_{role} of {shown(key)} has shape {shown(list(pair[role].shape))}; "
                "with rank "
                f"{rank} in adapter_config.json and this model's {module.name!r} it must be "
                f"{list(shape)}. Check r and rank_pattern, and that the adapter was trained for "
                "this model."
            )
            raise AdapterError(msg)
    scale = config.scale_of(key)
    check_scale(scale, key, where)
    parts = torch.split(pair["B"], rows)
    weights = [
        SiteWeights(site, pair["A"], part, scale)
        for site, part in zip(module.sites, parts, strict=True)
    ]
    if not pair["A"].is_meta:
        for each in weights:
            check_results(each, where)
    return weights


def _check_selection(
    config: PeftConfig, keys: tuple[str, ...], found: frozenset[int], index: SiteIndex, where: str
) -> None:
    for key in keys:
        module = index.find(key)
        assert module is not None, "parse_weights has looked it up"
        if not config.selector.selects(key, inner=module.inner):
            msg = (
                f"{where}: the weights hold {shown(key)}, which adapter_config.json does not "
                "target "
                "(target_modules, exclude_modules, layers_to_transform), so PEFT would not use "
                "it. Correct the config, or remove the tensors."
            )
            raise AdapterError(msg)
    if config.selector.is_open:
        return
    prefix = index.prefix_of(keys)
    for module in index.modules:
        packed = len(module.sites) > 1
        covered = [site.index in found for site in module.sites]
        complete = any(covered) if packed else all(covered)
        key = module.key(prefix)
        if not complete and config.selector.selects(key, inner=module.inner):
            # A packed name that only an expression or "all-linear" reaches says nothing of its
            # own: its parts are looked at one by one.
            if packed and not isinstance(config.selector.targets, frozenset):
                continue
            msg = (
                f"{where}: adapter_config.json targets {shown(key)}, but the weights hold no "
                "lora_A and "
                "lora_B for it, so it would silently run as the base model. Copy or save the "
                "whole adapter again, or correct target_modules."
            )
            raise AdapterError(msg)


def _check_tying(config: PeftConfig, found: Iterable[SiteWeights], where: str) -> None:
    outer = [weights.site.name for weights in found if weights.site.group in ("embed", "head")]
    if config.ensure_weight_tying and outer:
        msg = (
            f"{where}: ensure_weight_tying is set and {outer[0]!r} is adapted; tied adapters are "
            "not served. Train without ensure_weight_tying."
        )
        raise AdapterError(msg)
