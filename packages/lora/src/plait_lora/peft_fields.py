"""Every field of PEFT's LoraConfig: honoured, without effect on the result, or refused."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from plait_kernels.errors import AdapterError
from plait_lora.adapter_directory import MLX_REMEDY
from plait_lora.field_marks import is_mark
from plait_lora.shown import shortened, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

HONOURED = frozenset(
    {
        "alpha_pattern",
        "ensure_weight_tying",
        "exclude_modules",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "r",
        "rank_pattern",
        "target_modules",
        "use_rslora",
    }
)
"""Fields that decide modules, ranks and scales."""

CHECKED = frozenset({"bias", "fan_in_fan_out", "init_lora_weights", "peft_type"})
"""Fields of which some values are served."""

WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "inference_mode",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
        "velora_config",
    }
)
"""Fields that change training, initialisation or bookkeeping only.

The ``*_config`` fields of an initialisation matter only together with ``init_lora_weights``, which
is checked; VeLoRA changes the backward pass.
"""

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "alora_invocation_tokens": "activated LoRA switches the adapter on inside the prompt",
        "arrow_config": "Arrow routes every token among several adapters",
        "kasa_config": "KaSA truncates the base weights",
        "layer_replication": "it changes the layers of the base model",
        "lora_bias": "it adds a bias to lora_B",
        "megatron_config": "it is for Megatron's parallel layers",
        "modules_to_save": "it replaces whole modules of the base model",
        "monteclora_config": "it samples the weights",
        "target_parameters": "it adapts bare parameters, which are not sites",
        "trainable_token_indices": "it replaces rows of the embedding",
        "use_bdlora": "it stores block-diagonal matrices",
        "use_dora": "DoRA rescales the merged weight",
        "use_qalora": "it pools the input of the adapter",
    }
)
"""Fields that change the result and are not served, with the reason."""

_ON_UNLESS_NULL = frozenset(
    {"alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "use_bdlora"}
)  # an empty object here means the feature with its defaults

_MLX_FIELDS = frozenset({"fine_tune_type", "lora_parameters", "lora_layers", "adapter_path"})
"""Fields of mlx-lm's adapter_config.json."""

_INITIALISATIONS = frozenset({"gaussian", "eva", "orthogonal", "mica"})
_REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def check_fields(config: Mapping[str, Any], where: str) -> None:
    """Refuse a config with a field that changes the result and is not honoured.

    Parameters
    ----------
    config : Mapping[str, Any]
    where : str
        Names the adapter in messages.

    Raises
    ------
    AdapterError
    """
    if config.get("peft_type") is None and _MLX_FIELDS & config.keys():
        msg = f"{where}: adapter_config.json is not PEFT's. {MLX_REMEDY}"
        raise AdapterError(msg)
    peft_type = config.get("peft_type")
    if peft_type != "LORA":
        msg = (
            f"{where}: peft_type is {shown(_plain(peft_type))}; plait serves 'LORA' only. "
            "Train a LoRA adapter, or merge this one into a base model."
        )
        raise AdapterError(msg)
    if config.get("bias") not in (None, "none"):
        _refuse(where, "bias", config["bias"], "it changes biases of the base model", "'none'")
    if config.get("fan_in_fan_out"):
        value = config["fan_in_fan_out"]
        _refuse(where, "fan_in_fan_out", value, "it is for transposed (Conv1D) weights", "false")
    _check_initialisation(config.get("init_lora_weights"), where)
    for field, reason in REFUSED.items():
        value = config.get(field)
        if _is_set(value) or (field in _ON_UNLESS_NULL and value not in (None, False)):
            _refuse(where, field, value, reason, "unset")
    known = HONOURED | CHECKED | WITHOUT_EFFECT | frozenset(REFUSED)
    for field in sorted(set(map(str, config)) - known):
        if _is_set(config.get(field)) and not is_mark(field, config[field]):
            msg = (
                f"{where}: {shortened(field)} is {shown(config[field])}, a field that plait does "
                "not know and that may change the result. Remove it if it has no effect at "
                "inference; otherwise merge the adapter into a base model."
            )
            raise AdapterError(msg)


def _check_initialisation(value: object, where: str) -> None:
    if value is None or isinstance(value, bool):
        return
    name = value.lower() if isinstance(value, str) else ""
    if name.startswith(_REWRITES_BASE):
        msg = (
            f"{where}: init_lora_weights is {shown(value)}, which changes the base weights, so the "
            "adapter does not fit the unchanged base model. Convert it with PEFT's "
            "save_pretrained(path_initial_model_for_weight_conversion=...)."
        )
        raise AdapterError(msg)
    if name not in _INITIALISATIONS:
        msg = (
            f"{where}: init_lora_weights is {shown(value)}, which plait does not know and which "
            "may "
            f"have changed the base weights; known are true, false and "
            f"{', '.join(sorted(_INITIALISATIONS))}. If the base weights are unchanged, set it "
            "to true."
        )
        raise AdapterError(msg)


def _refuse(where: str, field: str, value: object, reason: str, allowed: str) -> None:
    msg = (
        f"{where}: {field} is {shown(_plain(value))}, which plait does not serve ({reason}); it "
        "must be "
        f"{allowed}. Train without it, or merge the adapter into a base model."
    )
    raise AdapterError(msg)


def _is_set(value: object) -> bool:
    if isinstance(value, list | dict | AbstractSet):
        return bool(value)
    return value not in (None, False, "", 0, ())


def _plain(value: object) -> object:
    return str(value.value) if hasattr(value, "value") else value
