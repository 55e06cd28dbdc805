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
        ({"quantization": {"bits": 4, "group_size": 64}}, ("quantization", "mlx", "4 bits")),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, ("yarn", "llama3")),
        ({"partial_rotary_factor": 0.5}, ("partial_rotary_factor", "0.5")),
        ({"num_key_value_heads": 3}, ("num_key_value_heads", "multiple")),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, ("low_freq_factor",)),
        ({"hidden_size": "wide"}, ("hidden_size",)),
        ({"hidden_size": 66}, ("66", "attention heads")),
        ({"architectures": ["GPT2LMHeadModel"]}, ("GPT2LMHeadModel", "LlamaForCausalLM")),
        ({"architectures": None, "model_type": "bert"}, ("bert", "MistralForCausalLM")),
    ],
)
def test_refused_by_name(fields: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        parse_hf_config({**RAW, **fields}, "some/config.json")
    for word in ("some/config.json", *words):
        assert word in str(caught.value)


def test_two_refusals_are_told_together() -> None:
    with pytest.raises(ModelError, match=r"hidden_act.*quantization_config"):
        parse_hf_config({**RAW, "hidden_act": "relu", "quantization_config": {}}, "x")


def test_a_window_as_long_as_the_model_is_no_window() -> None:
    raw = {**RAW, "architectures": ["MistralForCausalLM"], "sliding_window": 128}
    assert parse_hf_config(raw, "x").architecture == "MistralForCausalLM"


MISTRAL = {**RAW, "architectures": ["MistralForCausalLM"]}


@pytest.mark.parametrize(
    ("raw", "positions", "words"),
    [
        (RAW, 128, "max_position_embeddings"),
        ({**MISTRAL, "sliding_window": 64}, 64, "sliding_window"),
        ({**MISTRAL, "sliding_window": None}, 128, "max_position_embeddings"),
        # transformers ignores the window of Llama.
        ({**RAW, "sliding_window": 64}, 128, "max_position_embeddings"),
        ({**RAW, "rope_scaling": {"type": "linear", "factor": 4.0}}, 512, "factor 4"),
        ({**RAW, "rope_scaling": {"type": "linear", "factor": 0.5}}, 128, "linear"),
        ({**RAW, "rope_scaling": {"type": "dynamic", "factor": 4.0}}, 128, "dynamic"),
        ({**RAW, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, 128, "max_position"),
    ],
)
def test_how_many_positions_there_are(raw: dict[str, Any], positions: int, words: str) -> None:
    config = parse_hf_config(raw, "x")
    assert config.max_position == positions
    assert words in config.position_limit


@pytest.mark.parametrize(
    "fields",
    [
        {"pretraining_tp": 2},
        {"architectures": ["LLaMAForCausalLM"]},
        {"architectures": ["LlamaModel"]},
        {"architectures": None},
        {"architectures": []},
        # What is not used may be anything.
        {"id2label": 5, "bos_token_id": "<s>", "attention_dropout": None, "use_cache": "yes"},
        {"head_dim": None, "num_key_value_heads": 2, "rope_scaling": None, "attention_bias": None},
    ],
)
def test_the_same_model_under_other_fields(fields: dict[str, Any]) -> None:
    assert parse_hf_config({**RAW, **fields}, "x") == parse_hf_config(RAW, "x")


WRONG: list[dict[str, Any]] = [
    {"architectures": "LlamaForCausalLM"},
    {"architectures": {"0": "LlamaForCausalLM"}},
    {"architectures": [None]},
    {"architectures": 5},
    {"architectures": None, "model_type": ["llama"]},
    *(
        {name: value}
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
        )
        for value in (0, -1, 10**9, 2**63, 1.5, "8", True, [8], {"a": 1})
    ),
    *({name: None} for name in ("vocab_size", "num_hidden_layers", "max_position_embeddings")),
    {"head_dim": 0},
    {"head_dim": 15},
    {"head_dim": -2},
    {"rms_norm_eps": "small"},
    {"rms_norm_eps": float("nan")},
    {"rms_norm_eps": None},
    {"hidden_act": 5},
    {"hidden_act": None},
    {"hidden_act": ["silu"]},
    {"tie_word_embeddings": "yes"},
    {"attention_bias": 1},
    {"torch_dtype": 16},
    {"rope_theta": 0},
    {"rope_theta": -1e4},
    {"rope_theta": 1e300},
    {"rope_theta": float("inf")},
    {"rope_theta": "10000"},
    {"rope_scaling": "linear"},
    {"rope_scaling": [4.0]},
    {"rope_scaling": {"type": 5}},
    {"rope_scaling": {"type": "linear"}},
    {"rope_scaling": {"type": "linear", "factor": 0}},
    {"rope_scaling": {"type": "linear", "factor": "4"}},
    {"rope_scaling": {"type": "linear", "factor": 1e300}},
    {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "factor": -8}},
    {"rope_parameters": "x"},
    {"quantization_config": "awq"},
    {"architectures": ["MistralForCausalLM"], "sliding_window": "4096"},
    {"architectures": ["MistralForCausalLM"], "sliding_window": 0},
    {"architectures": ["MistralForCausalLM"], "sliding_window": -1},
    {"architectures": ["x" * 10**7]},
    {"hidden_act": "x" * 10**7},
]


@pytest.mark.parametrize("place", range(len(WRONG)))
def test_wrong_values_are_refused_by_name(place: int) -> None:
    fields = WRONG[place]
    with pytest.raises(ModelError) as caught:
        parse_hf_config({**RAW, **fields}, "some/config.json")
    message = str(caught.value)
    assert message.startswith("some/config.json")
    assert len(message) < 1000
    names = [name.removesuffix("s") for name in fields]
    assert any(n in message or ("rope" in n and "rope" in message) for n in names), message


def test_the_raw_config_is_left_alone() -> None:
    raw = {**RAW, "rope_scaling": {"type": "linear", "factor": 2.0}}
    before = json.dumps(raw)
    parse_hf_config(raw, "x")
    assert json.dumps(raw) == before
