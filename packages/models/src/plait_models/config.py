"""ModelConfig: what the model zoo needs to know of a model before its weights are read."""

from __future__ import annotations

from dataclasses import dataclass

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
"""Architectures that can be loaded, as ``config.json`` names them."""


@dataclass(frozen=True)
class ModelConfig:
    """One model, as plain data.

    Attributes
    ----------
    architecture : str
        One of ``ARCHITECTURES``.
    vocab_size, hidden_size, intermediate_size : int
    layers, heads, kv_heads, head_dim : int
        ``heads`` is a multiple of ``kv_heads``; ``heads · head_dim`` may differ from
        ``hidden_size``.
    max_position : int
        Positions below it can be used: a sequence of that length is computed exactly.
    rms_norm_eps : float
    rope_inv_freq : tuple[float, ...]
        Inverse frequencies of the rotary embedding, radians a position, one for every pair of
        dimensions, scaling included; each is exactly a float32.
    attention_bias : bool
        Whether q, k, v and o have a bias.
    mlp_bias : bool
        Whether gate, up and down have a bias.
    tied_embeddings : bool
        Whether the head is the embedding matrix.
    dtype : str
        What ``dtype="auto"`` means on a CPU: that of the files, float32 of a GGUF.
    file_format : str
        ``"safetensors"`` or ``"gguf"``: the kind of files the config was read from.
    position_limit : str
        Which fields ``max_position`` comes from, for messages.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_position: int
    rms_norm_eps: float
    rope_inv_freq: tuple[float, ...]
    attention_bias: bool
    mlp_bias: bool
    tied_embeddings: bool
    dtype: str
    file_format: str
    position_limit: str = "max_position_embeddings"

    @property
    def q_size(self) -> int:
        """Columns of q."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Columns of k, and of v."""
        return self.kv_heads * self.head_dim

    @property
    def rotary_dim(self) -> int:
        """How many dimensions of a head are rotated."""
        return 2 * len(self.rope_inv_freq)
