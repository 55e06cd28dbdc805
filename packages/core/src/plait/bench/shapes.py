"""Shapes of known models: a ``config.json`` is all that an engine with dummy weights reads."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def _llama(
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    **others: Any,
) -> Mapping[str, Any]:
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "vocab_size": vocab,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16",
    }
    return MappingProxyType(fields | others)


def _llama3_rope(factor: float) -> dict[str, Any]:
    return {
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    }


SHAPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "llama-3.1-8b": _llama(
            4096, 14336, 32, 32, 8, 128256, tie_word_embeddings=False, **_llama3_rope(8.0)
        ),
        "llama-3.2-1b": _llama(
            2048, 8192, 16, 32, 8, 128256, tie_word_embeddings=True, **_llama3_rope(32.0)
        ),
        "smollm2-135m": _llama(
            *(576, 1536, 30, 9, 3, 49152),
            tie_word_embeddings=True,
            max_position_embeddings=8192,
            rope_theta=100000.0,
        ),
        "tiny": _llama(
            *(128, 192, 2, 4, 2, 512),
            tie_word_embeddings=False,
            max_position_embeddings=4096,
            rope_theta=10000.0,
        ),
    }
)
"""Name -> the fields of its ``config.json``."""


def write_shape(name: str, folder: Path) -> None:
    """Write the ``config.json`` of one of ``SHAPES``; ``folder`` is made."""
    folder.mkdir(parents=True)
    text = json.dumps(dict(SHAPES[name]), indent=2)
    (folder / "config.json").write_text(text, encoding="utf-8")
