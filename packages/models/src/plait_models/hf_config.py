"""Read a Hugging Face ``config.json``, and refuse by name what would change the maths."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from plait_kernels.config import DTYPES
from plait_kernels.errors import ModelError
from plait_models.config import ARCHITECTURES, ModelConfig
from plait_models.fields import LIMITS, Fields
from plait_models.files.opening import shortened
from plait_models.rope import check_rope, inverse_frequencies

if TYPE_CHECKING:
    from collections.abc import Mapping

_ALIASES = {
    "LLaMAForCausalLM": "LlamaForCausalLM",
    "LlamaModel": "LlamaForCausalLM",
    "MistralModel": "MistralForCausalLM",
}
"""Names for the same network: an early spelling, and models saved without their head."""

_FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias")
_USED = frozenset(
    (
        *LIMITS,
        *_FLAGS,
        "hidden_act",
        "partial_rotary_factor",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
    )
)
"""The fields that the maths depend on."""

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
    _check_types(raw, origin)
    config = _transformers_config(architecture, raw, origin)
    _refuse_what_changes_the_maths(config, raw, origin)
    heads, kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
    if heads % kv_heads:
        message = (
            f"{origin}: num_attention_heads is {heads} and num_key_value_heads is {kv_heads}; the "
            "first must be a multiple of the second. Repair the config"
        )
        raise ModelError(message)
    head_dim = int(config.head_dim)
    if head_dim % 2:
        message = (
            f"{origin}: head_dim is {head_dim}; allowed: an even number, whose halves are rotated. "
            "Repair the config"
        )
        raise ModelError(message)
    max_position, position_limit = _positions(architecture, config, raw, origin)
    return ModelConfig(
        architecture=architecture,
        vocab_size=int(config.vocab_size),
        hidden_size=int(config.hidden_size),
        intermediate_size=int(config.intermediate_size),
        layers=int(config.num_hidden_layers),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=max_position,
        position_limit=position_limit,
        rms_norm_eps=float(config.rms_norm_eps),
        rope_inv_freq=inverse_frequencies(config, origin),
        attention_bias=bool(getattr(config, "attention_bias", False)),
        mlp_bias=bool(getattr(config, "mlp_bias", False)),
        tied_embeddings=bool(config.tie_word_embeddings),
        dtype=_dtype(raw),
        file_format=file_format,
    )


def _architecture(raw: Mapping[str, Any], origin: str) -> str:
    named, model_type = raw.get("architectures"), raw.get("model_type")
    if named is not None and not (
        isinstance(named, list) and all(isinstance(name, str) for name in named)
    ):
        Fields(raw, origin).refuse("architectures", f"a list of texts such as {ARCHITECTURES[0]!r}")
    if named:
        architecture = _ALIASES.get(named[0], named[0])
    else:
        architecture = _OF_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None
    if architecture not in ARCHITECTURES:
        message = (
            f"{origin}: architecture {shortened(architecture)} (model_type "
            f"{shortened(model_type)}) is not supported; allowed: {', '.join(ARCHITECTURES)}. Use "
            "a model of one of these"
        )
        raise ModelError(message)
    return str(architecture)


def _check_types(raw: Mapping[str, Any], origin: str) -> None:
    """Check every field that is used, before transformers takes it as it is."""
    fields = Fields(raw, origin)
    for name, (low, high) in LIMITS.items():
        nullable = name in ("num_key_value_heads", "head_dim")
        fields.integer(name, low, high, nullable=nullable)
    fields.number("rms_norm_eps", 0, 1)
    fields.text("hidden_act")
    for name in _FLAGS:
        fields.flag(name)
    for name in ("dtype", "torch_dtype"):
        fields.text(name, nullable=True)
    for rope in (fields, fields.fields("rope_scaling"), fields.fields("rope_parameters")):
        if rope is not None:
            check_rope(rope)


def _positions(
    architecture: str, config: Any, raw: Mapping[str, Any], origin: str
) -> tuple[int, str]:
    """Tell how many positions can be computed exactly, and which field says so."""
    rope = config.rope_parameters
    most, limit = int(config.max_position_embeddings), "max_position_embeddings"
    if rope.get("rope_type") == "linear":
        # Every position is known, and the model was trained for this many.
        factor = float(rope["factor"])
        most = int(rope.get("original_max_position_embeddings") or most)
        most, limit = (
            max(most, int(most * factor)),
            f"{limit} and its linear rope factor {factor:g}",
        )
    elif rope.get("rope_type") == "dynamic":
        limit = f"{limit}, past which dynamic rope scaling depends on each sequence's length"
    if architecture == "MistralForCausalLM":
        # transformers reads the window of Mistral and ignores that of Llama.
        fields = Fields({"sliding_window": config.sliding_window, **raw}, origin)
        window = fields.integer("sliding_window", 1, 2**31, nullable=True)
        if window is not None and window < most:
            # Up to here the window holds every earlier token.
            most, limit = window, "sliding_window, which is not served past its length"
    allowed = LIMITS["max_position_embeddings"][1]
    if most > allowed:
        message = (
            f"{origin}: there are {most} positions, from {limit}; allowed: at most {allowed}. "
            "Repair the config"
        )
        raise ModelError(message)
    return most, limit


def _transformers_config(architecture: str, raw: Mapping[str, Any], origin: str) -> Any:
    from transformers import LlamaConfig, MistralConfig

    kind = {"LlamaForCausalLM": LlamaConfig, "MistralForCausalLM": MistralConfig}[architecture]
    # Whatever else a file says must not keep the model from being read.
    used = {
        name: value
        for name, value in raw.items()
        if name in _USED and not (name in _FLAGS and value is None)
    }
    try:
        # transformers writes into the nested dictionaries that it is given.
        return kind.from_dict(deepcopy(used))
    except Exception as error:
        # Its checks raise errors of many kinds; each of them is a damaged config.
        message = (
            f"{origin}: not a config that transformers accepts: {str(error)[:500]}. Repair the "
            "field or fetch the file again"
        )
        raise ModelError(message) from error


def _refuse_what_changes_the_maths(config: Any, raw: Mapping[str, Any], origin: str) -> None:
    refusals = []
    fields = Fields(raw, origin)
    if config.hidden_act not in ("silu", "swish"):
        refusals.append(("hidden_act", config.hidden_act, "'silu'"))
    if fields.fields("quantization_config") is not None:
        method = raw["quantization_config"].get("quant_method", "unnamed")
        refusals.append(("quantization_config", f"quant_method {method}", "no such field"))
    elif isinstance(raw.get("quantization"), dict):
        bits = raw["quantization"].get("bits", "some")
        refusals.append(("quantization", f"mlx weights of {bits} bits", "no such field"))
    if refusals:
        told = "; ".join(
            f"{field} is {shortened(got)}, allowed: {allowed}" for field, got, allowed in refusals
        )
        message = (
            f"{origin}: the model needs what is not implemented: {told}. Use a model without it"
        )
        raise ModelError(message)


def _dtype(raw: Mapping[str, Any]) -> str:
    named = str(raw.get("dtype") or raw.get("torch_dtype") or "float32").removeprefix("torch.")
    # Any other dtype is the file's own business: its tensors are converted on the way in.
    return named if named in DTYPES else "float32"
