"""The config of a GGUF file of the llama architecture, from its metadata."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from plait_kernels.errors import ModelError
from plait_models.config import ModelConfig
from plait_models.files.gguf_names import CHANGES_THE_MATHS
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
            f"{origin}: general.architecture is {architecture!r}; allowed: 'llama'. Use a model of "
            "that architecture"
        )
        raise ModelError(message)
    parts = metadata.get("split.count", 1)
    if parts not in (0, 1):
        message = (
            f"{origin}: is one of {parts} parts; allowed: one whole file. Join the parts with "
            "llama-gguf-split --merge"
        )
        raise ModelError(message)
    keys = [f"llama.{key}" for key in CHANGES_THE_MATHS]
    found = [f"{key} = {metadata[key]}" for key in keys if metadata.get(key)]
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
    hidden = metadata.integer("embedding_length")
    heads = metadata.integer("attention.head_count")
    kv_heads = metadata.integer("attention.head_count_kv", heads)
    if heads % kv_heads:
        message = (
            f"{origin}: llama.attention.head_count is {heads} and head_count_kv is {kv_heads}; the "
            "first must be a multiple of the second. Convert the model again"
        )
        raise ModelError(message)
    head_dim = metadata.integer("attention.key_length", hidden // heads)
    for key, same in (
        ("attention.value_length", "keys and values have one size"),
        ("rope.dimension_count", "whole heads are rotated"),
    ):
        size = metadata.integer(key, head_dim)
        if size != head_dim:
            message = (
                f"{origin}: llama.{key} is {size}; allowed: the size of a head, {head_dim}. Use a "
                f"model where {same}"
            )
            raise ModelError(message)
    tensors = header.tensors
    embedding = tensors.get("token_embd.weight")
    return ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=metadata.integer("vocab_size") if embedding is None else embedding.shape[0],
        hidden_size=hidden,
        intermediate_size=metadata.integer("feed_forward_length"),
        layers=metadata.integer("block_count"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=metadata.integer("context_length"),
        rms_norm_eps=metadata.number("attention.layer_norm_rms_epsilon"),
        rope_inv_freq=_inverse_frequencies(metadata, head_dim, rope_factors),
        attention_bias="blk.0.attn_q.bias" in tensors,
        mlp_bias="blk.0.ffn_gate.bias" in tensors,
        tied_embeddings="output.weight" not in tensors,
        dtype="float32",
        file_format="gguf",
    )


class _Metadata:
    """The metadata of the architecture; a key that is there must be a positive number."""

    def __init__(self, header: GgufHeader, origin: str) -> None:
        self.origin = origin
        self._metadata = header.metadata

    def get(self, key: str) -> Any:
        return self._metadata.get(f"llama.{key}")

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        if value is None and default is not None:
            return default
        # Some models have one number a layer.
        if not isinstance(value, int | float) or not value > 0:
            got = "missing" if value is None else repr(value)
            message = (
                f"{self.origin}: llama.{key} is {got}; it must be one number above 0. Convert the "
                "model again"
            )
            raise ModelError(message)
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        return int(self.number(key, default))


def _inverse_frequencies(
    metadata: _Metadata, head_dim: int, factors: torch.Tensor | None
) -> tuple[float, ...]:
    kind = metadata.get("rope.scaling.type")
    if kind is None:
        kind = "linear" if metadata.get("rope.scale_linear") else "none"
    if kind not in _ROPE_SCALINGS:
        message = (
            f"{metadata.origin}: llama.rope.scaling.type is {kind!r}; allowed: "
            f"{', '.join(_ROPE_SCALINGS)}. Use a model without it"
        )
        raise ModelError(message)
    rope = {"rope_theta": metadata.number("rope.freq_base", 10000.0)}
    config = SimpleNamespace(rope_parameters=rope, head_dim=head_dim)
    inv_freq = torch.tensor(inverse_frequencies(config, metadata.origin), dtype=torch.float32)
    if kind == "linear":
        old = metadata.number("rope.scale_linear", 1.0)
        inv_freq /= metadata.number("rope.scaling.factor", old)
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
