"""Which ops a Llama calls, and with which static parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from plait_kernels.config import BUCKETS, OpConfig, Scalar
from plait_kernels.sites import SITE_GROUPS
from plait_kernels.weights import DenseWeight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_kernels.table import KernelTable
    from plait_models.config import ModelConfig

Call: TypeAlias = tuple[str, dict[str, Scalar]]


def calls(config: ModelConfig, block_size: int) -> dict[str, Call]:
    """List every call of an op: what it is for → (op, static parameters)."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    cache: dict[str, Scalar] = {
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "block_size": block_size,
    }
    attention = {**cache, "heads": config.heads, "scale": config.head_dim**-0.5}
    rotary: dict[str, Scalar] = {"head_dim": config.head_dim, "rotary_dim": config.rotary_dim}
    qkv_size = config.q_size + 2 * config.kv_size
    return {
        "first_norm": ("rms_norm", {"hidden": hidden}),
        "add_norm": ("fused_add_rms_norm", {"hidden": hidden}),
        "rotary": ("rotary_embedding", rotary),
        "activation": ("silu_and_mul", {"features": intermediate}),
        "kv_write": ("kv_write", cache),
        "attention": ("attention", attention),
        "linear.qkv": _linear(hidden, qkv_size, config.attention_bias),
        "linear.o": _linear(config.q_size, hidden, config.attention_bias),
        "linear.gate_up": _linear(hidden, 2 * intermediate, config.mlp_bias),
        "linear.down": _linear(intermediate, hidden, config.mlp_bias),
        "linear.head": _linear(hidden, config.vocab_size, bias=False),
        **{f"lora.{group}": ("lora", {"group": group}) for group in SITE_GROUPS},
    }


def op_configs(
    config: ModelConfig, dtype: str, block_size: int, max_tokens: Mapping[str, int]
) -> tuple[OpConfig, ...]:
    """List what a kernel table must hold for this model.

    Parameters
    ----------
    config : ModelConfig
    dtype : str
        Of the activations, one of ``DTYPES``.
    block_size : int
        Tokens of a KV block.
    max_tokens : Mapping[str, int]
        The most tokens of a step, for each of ``BUCKETS``.

    Returns
    -------
    tuple[OpConfig, ...]
        Without repetition, for all buckets.
    """
    listed = [
        OpConfig.of(op, dtype=dtype, bucket=bucket, max_tokens=max_tokens[bucket], **params)
        for op, params in calls(config, block_size).values()
        for bucket in BUCKETS
    ]
    return tuple(dict.fromkeys(listed))


def bind(
    table: KernelTable, config: ModelConfig, dtype: str, block_size: int
) -> tuple[dict[str, Any], ...]:
    """Look every call up once.

    Returns
    -------
    tuple[dict[str, object], ...]
        Implementations by the names of ``calls``, and ``expand_silu_and_mul`` of the adapters on
        gate and up: None unless lora and activation are one backend's that has it. The tuple is
        indexed like ``BUCKETS``.
    """
    listed = calls(config, block_size)
    found = {name: table.bind(op, dtype, **params) for name, (op, params) in listed.items()}
    lora, activation = (
        table.backends(listed[name][0], dtype, **listed[name][1])
        for name in ("lora.gate_up", "activation")
    )
    found["expand_silu_and_mul"] = tuple(
        getattr(kernel, "expand_silu_and_mul", None) if of_lora == of_activation else None
        for kernel, of_lora, of_activation in zip(
            found["lora.gate_up"], lora, activation, strict=True
        )
    )
    return tuple(
        {name: implementations[index] for name, implementations in found.items()}
        for index in range(len(BUCKETS))
    )


def _linear(in_features: int, out_features: int, bias: bool) -> Call:
    return "linear", {
        "in_features": in_features,
        "out_features": out_features,
        "format": DenseWeight.format,
        "bias": bias,
    }
