"""adapter_config.json, parsed strictly: what changes the maths is honoured or refused by name."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plait_kernels.errors import AdapterError
from plait_lora.expressions import MatchTime
from plait_lora.module_patterns import LayerFilter, ModulePatterns, ModuleSelector
from plait_lora.peft_fields import check_fields
from plait_lora.shown import shortened, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEFAULT_RANK = 8
_DEFAULT_ALPHA = 8
_MOST = 2**31 - 1
"""The highest rank that is a number at all; how many fit is asked of the weights."""


@dataclass(frozen=True)
class PeftConfig:
    """The part of a PEFT ``LoraConfig`` that decides which module gets what scale.

    A module is named here by its *key*: its name in the model that was trained, for example
    ``"model.layers.0.self_attn.q_proj"``.

    Attributes
    ----------
    rank : int
        ``r``.
    alpha : float
        ``lora_alpha``.
    use_rslora : bool
        Whether the scale is alpha/√r instead of alpha/r.
    ranks, alphas : ModulePatterns
        ``rank_pattern`` and ``alpha_pattern``.
    selector : ModuleSelector
        ``target_modules`` and what narrows it.
    ensure_weight_tying : bool
    """

    rank: int
    alpha: float
    use_rslora: bool
    ranks: ModulePatterns
    alphas: ModulePatterns
    selector: ModuleSelector
    ensure_weight_tying: bool

    @classmethod
    def parse(cls, config: Mapping[str, Any], where: str) -> PeftConfig:
        """Check every field of a config and keep what matters.

        Parameters
        ----------
        config : Mapping[str, Any]
            The object in ``adapter_config.json``, or ``LoraConfig.to_dict()``.
        where : str
            Names the adapter in messages.

        Raises
        ------
        AdapterError
            If a field is malformed, or changes the result in a way that plait does not serve.
        """
        check_fields(config, where)
        rank = _rank(config.get("r", _DEFAULT_RANK), "r", where)
        alpha = _alpha(config.get("lora_alpha", _DEFAULT_ALPHA), "lora_alpha", where)
        ranks = {
            pattern: _rank(value, f"rank_pattern[{shown(pattern)}]", where)
            for pattern, value in _patterns(config, "rank_pattern", where).items()
        }
        alphas = {
            pattern: _alpha(value, f"alpha_pattern[{shown(pattern)}]", where)
            for pattern, value in _patterns(config, "alpha_pattern", where).items()
        }
        time = MatchTime()
        selector = ModuleSelector.parse(
            targets=config.get("target_modules"),
            excluded=config.get("exclude_modules"),
            layers=LayerFilter.parse(
                config.get("layers_to_transform"), config.get("layers_pattern"), where, time
            ),
            where=where,
            time=time,
        )
        return cls(
            rank=rank,
            alpha=alpha,
            use_rslora=_flag(config, "use_rslora", where),
            ranks=ModulePatterns.parse(ranks, "rank_pattern", where, time),
            alphas=ModulePatterns.parse(alphas, "alpha_pattern", where, time),
            selector=selector,
            ensure_weight_tying=_flag(config, "ensure_weight_tying", where),
        )

    def rank_of(self, key: str) -> int:
        """Return the rank of the module ``key``."""
        return int(self.ranks.get(key, self.rank))

    def scale_of(self, key: str) -> float:
        """Return the scale of the module ``key``: alpha/r, or alpha/√r with ``use_rslora``.

        The second is rank-stabilised LoRA (Kalajdzievski, arXiv:2312.03732).
        """
        rank = self.rank_of(key)
        alpha = self.alphas.get(key, self.alpha)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def decode_config(data: bytes, where: str) -> dict[str, Any]:
    """Decode the bytes of ``adapter_config.json``.

    Parameters
    ----------
    data : bytes
        The whole file.
    where : str
        Names the adapter in messages.

    Returns
    -------
    dict[str, Any]

    Raises
    ------
    AdapterError
        If it is not a JSON object.
    """
    try:
        config = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        msg = (
            f"{where}: adapter_config.json is not valid JSON ({shortened(str(error))}); "
            "save the adapter again with save_pretrained, or copy the whole file."
        )
        raise AdapterError(msg) from error
    if not isinstance(config, dict):
        msg = (
            f"{where}: adapter_config.json holds a {type(config).__name__}; it must hold an object "
            "as PEFT's save_pretrained writes it."
        )
        raise AdapterError(msg)
    return config


def _refuse_constant(name: str) -> float:
    msg = f"{name} is not JSON"
    raise ValueError(msg)


def _flag(config: Mapping[str, Any], field: str, where: str) -> bool:
    value = config.get(field)
    if value is None:
        return False
    if not isinstance(value, bool):
        msg = f"{where}: {field} is {shown(value)}; it must be true or false."
        raise AdapterError(msg)
    return value


def _rank(value: object, field: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        msg = (
            f"{where}: {field} is {shown(value)}; a rank is an integer from 1 to {_MOST}. "
            "Correct adapter_config.json."
        )
        raise AdapterError(msg)
    return value


def _alpha(value: object, field: str, where: str) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise OverflowError
        number = float(value)
        if not math.isfinite(number):
            raise OverflowError
    except OverflowError:
        msg = (
            f"{where}: {field} is {shown(value)}; it must be a finite number. "
            "Correct adapter_config.json."
        )
        raise AdapterError(msg) from None
    return number


def _patterns(config: Mapping[str, Any], field: str, where: str) -> dict[str, Any]:
    value = config.get(field) or {}
    if not isinstance(value, dict):
        msg = (
            f"{where}: {field} is {shown(value)}; it must be an object of module patterns and "
            "numbers. Correct adapter_config.json."
        )
        raise AdapterError(msg)
    return value
