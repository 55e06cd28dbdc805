"""The config of a GGUF file of the llama architecture, from its metadata."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from plait_kernels.errors import ModelError
from plait_models.config import ModelConfig
from plait_models.fields import LIMITS
from plait_models.files.gguf_names import CHANGES_THE_MATHS
from plait_models.files.opening import shortened
from plait_models.rope import inverse_frequencies

if TYPE_CHECKING:
    from plait_models.files.gguf_header import GgufHeader

_ROPE_SCALINGS = ("none", "linear")


def check_metadata(header: GgufHeader, origin: str) -> None:
    """Check that a file holds one whole model that can be computed exactly.

    Raises
    ------
    ModelError
        Of a part of a file, another architecture than llama, or metadata that change the maths in
        a way that is not implemented.
    """
    metadata = header.metadata
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        message = (
            f"{origin}: general.architecture is {shortened(architecture)}; allowed: 'llama'. Use a "
            "model of that architecture"
        )
        raise ModelError(message)
    parts = metadata.get("split.count", 1)
    if parts not in (0, 1):
        message = (
            f"{origin}: is one of {shortened(parts)} parts; allowed: one whole file. Join the "
            "parts with llama-gguf-split --merge"
        )
        raise ModelError(message)
    keys = [f"llama.{key}" for key in CHANGES_THE_MATHS]
    found = [f"{key} = {shortened(metadata[key])}" for key in keys if metadata.get(key)]
    if metadata.get("llama.attention.causal", True) is False:
        found.append("llama.attention.causal = False")
    if found:
        message = (
            f"{origin}: the model needs what is not implemented: {', '.join(found)}; allowed: no "
            "such key. Use a model without it"
        )
        raise ModelError(message)


def parse_gguf_config(
    header: GgufHeader, origin: str, rope_factors: torch.Tensor | None = None
) -> ModelConfig:
    """Turn checked metadata into a ``ModelConfig``.

    Parameters
    ----------
    header : GgufHeader
    origin : str
        The file, for messages.
    rope_factors : Tensor, float32 [head_dim / 2] | None
        What each inverse frequency is divided by.

    Raises
    ------
    ModelError
        Of a key that is missing, damaged, or not implemented.
    """
    metadata = _Metadata(header, origin)
    hidden = metadata.integer("embedding_length", "hidden_size")
    heads = metadata.integer("attention.head_count", "num_attention_heads")
    kv_heads = metadata.integer("attention.head_count_kv", "num_key_value_heads", heads)
    if heads % kv_heads:
        message = (
            f"{origin}: llama.attention.head_count is {heads} and head_count_kv is {kv_heads}; the "
            "first must be a multiple of the second. Convert the model again"
        )
        raise ModelError(message)
    head_dim = metadata.integer("attention.key_length", "head_dim", hidden // heads)
    for key, same in (
        ("attention.value_length", "keys and values have one size"),
        ("rope.dimension_count", "whole heads are rotated"),
    ):
        size = metadata.integer(key, "head_dim", head_dim)
        if size != head_dim:
            message = (
                f"{origin}: llama.{key} is {size}; allowed: the size of a head, {head_dim}. Use a "
                f"model where {same}"
            )
            raise ModelError(message)
    if head_dim < 2 or head_dim % 2:
        message = (
            f"{origin}: the size of a head is {head_dim}; allowed: an even number, whose halves "
            "are rotated. Convert the model again"
        )
        raise ModelError(message)
    max_position, position_limit = _positions(metadata)
    tensors = header.tensors
    return ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=_vocab_size(header, metadata),
        hidden_size=hidden,
        intermediate_size=metadata.integer("feed_forward_length", "intermediate_size"),
        layers=metadata.integer("block_count", "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=max_position,
        position_limit=position_limit,
        rms_norm_eps=metadata.number("attention.layer_norm_rms_epsilon", 1),
        rope_inv_freq=_inverse_frequencies(metadata, head_dim, rope_factors),
        attention_bias="blk.0.attn_q.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
        tied_embeddings="output.weight" not in tensors,
        dtype="float32",
        file_format="gguf",
    )


class _Metadata:
    """The metadata of the architecture; a key that is there must be a number within bounds."""

    def __init__(self, header: GgufHeader, origin: str) -> None:
        self.origin = origin
        self._metadata = header.metadata

    def get(self, key: str) -> Any:
        return self._metadata.get(f"llama.{key}")

    def number(self, key: str, high: float, default: float | None = None) -> float:
        value = self.get(key)
        if value is None and default is not None:
            return default
        # Some models have one number a layer. NaN is not above 0.
        if type(value) not in (int, float) or not 0 < value <= high:
            self._refuse(key, value, f"one number above 0, at most {high:g}")
        return float(value)

    def integer(self, key: str, size: str, default: int | None = None) -> int:
        """Read a size; ``size`` is its name in ``LIMITS``."""
        value, high = self.get(key), LIMITS[size][1]
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 < value <= high:
            self._refuse(key, value, f"one number above 0, an integer of at most {high}")
        return int(value)

    def _refuse(self, key: str, value: Any, needed: str) -> NoReturn:
        got = "missing" if value is None else shortened(value)
        message = (
            f"{self.origin}: llama.{key} is {got}; it must be {needed}. Convert the model again"
        )
        raise ModelError(message)


def _vocab_size(header: GgufHeader, metadata: _Metadata) -> int:
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or not embedding.shape:
        return metadata.integer("vocab_size", "vocab_size")
    return embedding.shape[0]


def _linear_factor(metadata: _Metadata) -> float | None:
    """Tell by what positions are divided; None: they are not scaled."""
    kind = metadata.get("rope.scaling.type")
    if kind is None:
        kind = "linear" if metadata.get("rope.scale_linear") else "none"
    if kind not in _ROPE_SCALINGS:
        message = (
            f"{metadata.origin}: llama.rope.scaling.type is {shortened(kind)}; allowed: "
            f"{', '.join(_ROPE_SCALINGS)}. Use a model without it"
        )
        raise ModelError(message)
    if kind == "none":
        return None
    old = metadata.number("rope.scale_linear", 1e6, 1.0)
    return metadata.number("rope.scaling.factor", 1e6, old)


def _positions(metadata: _Metadata) -> tuple[int, str]:
    """Tell how many positions can be computed exactly, and which keys say so."""
    most = metadata.integer("context_length", "max_position_embeddings")
    limit = "llama.context_length"
    factor = _linear_factor(metadata)
    if factor is not None and factor > 1:
        # Every position is known, and the model was trained for this many.
        high = LIMITS["max_position_embeddings"][1]
        most, limit = min(int(most * factor), high), f"{limit} and its linear factor {factor:g}"
    window = metadata.get("attention.sliding_window")
    if window:
        size = metadata.integer("attention.sliding_window", "max_position_embeddings")
        if size < most:
            # Up to here the window holds every earlier token.
            most, limit = size, "attention.sliding_window, which is not served past its length"
    return most, limit


def _inverse_frequencies(
    metadata: _Metadata, head_dim: int, factors: torch.Tensor | None
) -> tuple[float, ...]:
    factor = _linear_factor(metadata)
    rope = {"rope_theta": metadata.number("rope.freq_base", 1e30, 10000.0)}
    config = SimpleNamespace(rope_parameters=rope, head_dim=head_dim)
    inv_freq = torch.tensor(inverse_frequencies(config, metadata.origin), dtype=torch.float32)
    if factor is not None:
        inv_freq /= factor
    if factors is not None:
        if factors.shape != inv_freq.shape:
            message = (
                f"{metadata.origin}: the file holds {factors.numel()} factors of inverse "
                f"frequencies; allowed: {inv_freq.numel()}, half the size of a head. Convert the "
                "model again"
            )
            raise ModelError(message)
        inv_freq /= factors
    return tuple(inv_freq.tolist())
