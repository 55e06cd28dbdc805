"""Read a Hugging Face ``config.json``, and refuse by name what would change the maths."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from plait_kernels.config import DTYPES
from plait_kernels.errors import ModelError
from plait_models.config import ARCHITECTURES, ModelConfig
from plait_models.rope import inverse_frequencies

if TYPE_CHECKING:
    from collections.abc import Mapping

_OF_MODEL_TYPE = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}


def parse_hf_config(
    raw: Mapping[str, Any], origin: str, *, file_format: str = "safetensors"
) -> ModelConfig:
    """Turn the contents of a ``config.json`` into a ``ModelConfig``.

    Parameters
    ----------
    raw : Mapping[str, Any]
        The parsed file. ``rope_theta``/``rope_scaling`` and ``rope_parameters`` are both read.
    origin : str
        The file, for messages.
    file_format : str
        Kept in the result.

    Raises
    ------
    ModelError
        Of an unknown architecture, a damaged config, or a field that changes the maths in a way
        that is not implemented.
    """
    architecture = _architecture(raw, origin)
    config = _transformers_config(architecture, raw, origin)
    _refuse_what_changes_the_maths(config, raw, origin)
    heads, kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
    if heads % kv_heads:
        message = (
            f"{origin}: num_attention_heads is {heads} and num_key_value_heads is {kv_heads}; the "
            "first must be a multiple of the second. Repair the config"
        )
        raise ModelError(message)
    return ModelConfig(
        architecture=architecture,
        vocab_size=int(config.vocab_size),
        hidden_size=int(config.hidden_size),
        intermediate_size=int(config.intermediate_size),
        layers=int(config.num_hidden_layers),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=int(config.head_dim),
        max_position=int(config.max_position_embeddings),
        rms_norm_eps=float(config.rms_norm_eps),
        rope_inv_freq=inverse_frequencies(config, origin),
        attention_bias=bool(getattr(config, "attention_bias", False)),
        mlp_bias=bool(getattr(config, "mlp_bias", False)),
        tied_embeddings=bool(config.tie_word_embeddings),
        dtype=_dtype(raw),
        file_format=file_format,
    )


def _architecture(raw: Mapping[str, Any], origin: str) -> str:
    named = raw.get("architectures") or [_OF_MODEL_TYPE.get(str(raw.get("model_type")))]
    architecture = named[0]
    if architecture not in ARCHITECTURES:
        message = (
            f"{origin}: architecture {architecture!r} (model_type {raw.get('model_type')!r}) is "
            f"not supported; allowed: {', '.join(ARCHITECTURES)}. Use a model of one of these"
        )
        raise ModelError(message)
    return str(architecture)


def _transformers_config(architecture: str, raw: Mapping[str, Any], origin: str) -> Any:
    from transformers import LlamaConfig, MistralConfig

    kind = {"LlamaForCausalLM": LlamaConfig, "MistralForCausalLM": MistralConfig}[architecture]
    try:
        # transformers writes into the nested dictionaries that it is given.
        return kind.from_dict(deepcopy(dict(raw)))
    except Exception as error:
        # Its checks raise errors of many kinds; each of them is a damaged config.
        message = (
            f"{origin}: not a config that transformers accepts: {error}. Repair the field or "
            "fetch the file again"
        )
        raise ModelError(message) from error


def _refuse_what_changes_the_maths(config: Any, raw: Mapping[str, Any], origin: str) -> None:
    refusals = []
    if config.hidden_act not in ("silu", "swish"):
        refusals.append(("hidden_act", config.hidden_act, "'silu'"))
    if raw.get("quantization_config") is not None:
        method = dict(raw["quantization_config"]).get("quant_method", "unnamed")
        refusals.append(("quantization_config", f"quant_method {method}", "no such field"))
    if raw.get("pretraining_tp") not in (None, 1):
        refusals.append(("pretraining_tp", raw["pretraining_tp"], "1"))
    # transformers reads the window of Mistral and ignores that of Llama.
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        allowed = f"null, or at least max_position_embeddings ({config.max_position_embeddings})"
        refusals.append(("sliding_window", window, allowed))
    if refusals:
        told = "; ".join(
            f"{field} is {got!r}, allowed: {allowed}" for field, got, allowed in refusals
        )
        message = (
            f"{origin}: the model needs what is not implemented: {told}. Use a model without it"
        )
        raise ModelError(message)


def _dtype(raw: Mapping[str, Any]) -> str:
    named = str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch.")
    # Any other dtype is the file's own business: its tensors are converted on the way in.
    return named if named in DTYPES else "float32"
