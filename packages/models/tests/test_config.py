"""Configs: what is read, and what is refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

import plait_models
from plait_kernels.errors import ModelError
from plait_models.hf_config import parse_hf_config
from plait_models.rope import cos_sin_table

if TYPE_CHECKING:
    from pathlib import Path

RAW: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "torch_dtype": "float16",
    "rope_theta": 500000.0,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def test_old_config_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RAW))
    (tmp_path / "model.safetensors").touch()
    config = plait_models.read_config(tmp_path)
    assert (config.layers, config.heads, config.kv_heads, config.head_dim) == (2, 4, 2, 16)
    assert (config.q_size, config.kv_size, config.rotary_dim) == (64, 32, 16)
    assert (config.dtype, config.max_position, config.tied_embeddings) == ("float16", 128, False)


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {"type": "linear", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "llama3", **LLAMA3},
    ],
)
def test_both_spellings_of_rope(scaling: dict[str, Any] | None) -> None:
    old = parse_hf_config({**RAW, "rope_scaling": scaling}, "old")
    kind = {} if scaling is None else dict(scaling)
    kind["rope_type"] = kind.pop("type", kind.get("rope_type", "default"))
    raw = {name: value for name, value in RAW.items() if name != "rope_theta"}
    new = parse_hf_config({**raw, "rope_parameters": {**kind, "rope_theta": 500000.0}}, "new")
    assert old == new
    oracle = LlamaRotaryEmbedding(LlamaConfig(**{**RAW, "rope_scaling": scaling}))
    assert old.rope_inv_freq == tuple(oracle.inv_freq.tolist())


def test_cos_sin_table_equals_transformers() -> None:
    config = parse_hf_config({**RAW, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, "x")
    oracle = LlamaRotaryEmbedding(
        LlamaConfig(**{**RAW, "rope_scaling": {"rope_type": "llama3", **LLAMA3}})
    )
    cos, sin = oracle(torch.zeros(1), torch.arange(128)[None])
    got = cos_sin_table(config.rope_inv_freq, 128)
    assert got.dtype == torch.float32
    half = config.rotary_dim // 2
    torch.testing.assert_close(got[:, :half], cos[0, :, :half])
    torch.testing.assert_close(got[:, half:], sin[0, :, half:])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hidden_act": "gelu"}, ("hidden_act", "gelu", "silu")),
        ({"quantization_config": {"quant_method": "awq"}}, ("quantization_config", "awq")),
        ({"pretraining_tp": 2}, ("pretraining_tp", "2")),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, ("yarn", "llama3")),
        ({"partial_rotary_factor": 0.5}, ("partial_rotary_factor", "0.5")),
        ({"num_key_value_heads": 3}, ("num_key_value_heads", "multiple")),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ("low_freq_factor",)),
        ({"hidden_size": "wide"}, ("hidden_size",)),
        ({"hidden_size": 66}, ("66", "attention heads")),
        ({"architectures": ["GPT2LMHeadModel"]}, ("GPT2LMHeadModel", "LlamaForCausalLM")),
        ({"architectures": None, "model_type": "bert"}, ("bert", "MistralForCausalLM")),
        (
            {"architectures": ["MistralForCausalLM"], "sliding_window": 64},
            ("sliding_window", "64", "128"),
        ),
    ],
)
def test_refused_by_name(fields: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        parse_hf_config({**RAW, **fields}, "some/config.json")
    for word in ("some/config.json", *words):
        assert word in str(caught.value)


def test_two_refusals_are_told_together() -> None:
    with pytest.raises(ModelError, match=r"hidden_act.*pretraining_tp"):
        parse_hf_config({**RAW, "hidden_act": "relu", "pretraining_tp": 4}, "x")


def test_a_window_as_long_as_the_model_is_no_window() -> None:
    raw = {**RAW, "architectures": ["MistralForCausalLM"], "sliding_window": 128}
    assert parse_hf_config(raw, "x").architecture == "MistralForCausalLM"


def test_the_raw_config_is_left_alone() -> None:
    raw = {**RAW, "rope_scaling": {"type": "linear", "factor": 2.0}}
    before = json.dumps(raw)
    parse_hf_config(raw, "x")
    assert json.dumps(raw) == before
