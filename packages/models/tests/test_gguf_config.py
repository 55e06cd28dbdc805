"""The config of a GGUF file: what metadata mean, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from plait_kernels.errors import ModelError
from plait_models.config import ModelConfig
from plait_models.files.gguf_config import check_metadata, parse_gguf_config
from plait_models.files.gguf_header import GgufHeader, TensorInfo

METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 3,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 44,
    "llama.vocab_size": 61,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def config_of(
    changes: dict[str, Any], *tensors: str, factors: torch.Tensor | None = None
) -> ModelConfig:
    """Parse the metadata with changes; None takes a key away."""
    metadata = {k: v for k, v in (METADATA | changes).items() if v is not None}
    header = GgufHeader(metadata, {name: TensorInfo((70, 32), 0, 0) for name in tensors})
    check_metadata(header, "x.gguf")
    return parse_gguf_config(header, "x.gguf", factors)


def test_defaults() -> None:
    config = config_of({"llama.attention.head_count_kv": None, "split.count": 1})
    assert (config.layers, config.heads, config.kv_heads, config.head_dim) == (3, 4, 4, 8)
    assert (config.vocab_size, config.max_position, config.dtype) == (61, 64, "float32")
    assert (config.tied_embeddings, config.attention_bias, config.mlp_bias) == (True, False, False)
    base = config_of({"llama.rope.freq_base": 10000.0})
    assert config.rope_inv_freq == base.rope_inv_freq


def test_tensors_tell_the_rest() -> None:
    config = config_of({}, "token_embd.weight", "output.weight", "blk.0.attn_q.bias")
    assert (config.vocab_size, config.tied_embeddings, config.attention_bias) == (70, False, True)


@pytest.mark.parametrize(
    "keys",
    [
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5},
        {"llama.rope.scale_linear": 2.5},
    ],
)
def test_linear_scaling_equals_transformers(keys: dict[str, Any]) -> None:
    config = config_of({"llama.attention.key_length": 16, "llama.rope.freq_base": 5e5, **keys})
    rope = {"rope_type": "linear", "factor": 2.5, "rope_theta": 5e5}
    oracle = LlamaConfig(hidden_size=32, num_attention_heads=4, head_dim=16, rope_parameters=rope)
    expected, _ = ROPE_INIT_FUNCTIONS["linear"](oracle)
    torch.testing.assert_close(torch.tensor(config.rope_inv_freq), expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general.architecture": "gpt2"}, "general.architecture is 'gpt2'; allowed: 'llama'"),
        ({"general.architecture": None}, "general.architecture is None"),
        ({"split.count": 3}, "one of 3 parts"),
        ({"llama.expert_count": 8}, "llama.expert_count = 8"),
        ({"llama.attention.causal": False}, "llama.attention.causal = False"),
        ({"llama.block_count": None}, "llama.block_count is missing"),
        ({"llama.attention.head_count": 0}, "head_count is 0; it must be one number above 0"),
        (
            {"llama.attention.head_count_kv": (2, 2, 1)},
            "head_count_kv is (2, 2, 1); it must be one",
        ),
        ({"llama.attention.head_count_kv": 3}, "head_count is 4 and head_count_kv is 3"),
        ({"llama.embedding_length": 2**40}, "embedding_length is 1099511627776; it must be one"),
        ({"llama.block_count": 10**9}, "block_count is 1000000000; it must be one number above 0"),
        ({"llama.context_length": 2**31}, "context_length is 2147483648; it must be one number"),
        ({"llama.context_length": "long"}, "context_length is 'long'; it must be one number"),
        ({"llama.feed_forward_length": True}, "feed_forward_length is True; it must be one"),
        ({"llama.attention.key_length": 7}, "size of a head is 7"),
        ({"llama.rope.freq_base": float("nan")}, "rope.freq_base is nan; it must be one number"),
        ({"llama.rope.freq_base": 1e38}, "rope.freq_base is 1e+38"),
        ({"llama.rope.freq_base": "much"}, "rope.freq_base is 'much'"),
        ({"llama.rope.scaling.type": "longrope"}, "'longrope'; allowed: none, linear"),
    ],
)
def test_refusals(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=re.escape(words)):
        config_of(changes)


def test_factors_of_another_number_are_refused() -> None:
    with pytest.raises(ModelError, match="holds 3 factors of inverse frequencies; allowed: 4"):
        config_of({}, factors=torch.ones(3))
