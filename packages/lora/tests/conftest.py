"""A tiny Llama, its sites, and adapters that PEFT itself has saved."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import transformers

from plait_kernels.sites import LoraSite
from plait_lora.catalog import AdapterCatalog

LAYERS, HIDDEN, INNER, VOCABULARY, KV = 3, 16, 24, 40, 8

_SHAPES = (
    ("self_attn.q_proj", "qkv", HIDDEN, HIDDEN, 0),
    ("self_attn.k_proj", "qkv", HIDDEN, KV, HIDDEN),
    ("self_attn.v_proj", "qkv", HIDDEN, KV, HIDDEN + KV),
    ("self_attn.o_proj", "o", HIDDEN, HIDDEN, 0),
    ("mlp.gate_proj", "gate_up", HIDDEN, INNER, 0),
    ("mlp.up_proj", "gate_up", HIDDEN, INNER, INNER),
    ("mlp.down_proj", "down", INNER, HIDDEN, 0),
)


@pytest.fixture(scope="session")
def sites() -> tuple[LoraSite, ...]:
    """The sites of the tiny Llama."""
    rows = [
        (f"layers.{layer}.{name}", group, fan_in, out, offset)
        for layer in range(LAYERS)
        for name, group, fan_in, out, offset in _SHAPES
    ]
    rows.append(("embed_tokens", "embed", VOCABULARY, HIDDEN, 0))
    rows.append(("lm_head", "head", HIDDEN, VOCABULARY, 0))
    return tuple(LoraSite(index, *row) for index, row in enumerate(rows))


@pytest.fixture(scope="session")
def make_base() -> Callable[[], transformers.LlamaForCausalLM]:
    """Makes the tiny Llama, with the same random weights every time."""

    def make() -> transformers.LlamaForCausalLM:
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=KV,
        )
        return transformers.LlamaForCausalLM(config)

    return make


@pytest.fixture(scope="session")
def make_peft(make_base: Callable[[], Any]) -> Callable[..., Any]:
    """Makes a PEFT model around the tiny Llama, with random A and B of both signs."""

    def make(base: Any = None, *, seed: int = 1, **config: Any) -> Any:
        base = make_base() if base is None else base
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = peft.get_peft_model(base, peft.LoraConfig(init_lora_weights=False, **config))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.normal_()
        return model

    return make


@pytest.fixture(scope="session")
def save_peft() -> Callable[[Any, Path], Path]:
    """Saves a PEFT model with PEFT's own save_pretrained."""

    def save(model: Any, path: Path) -> Path:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save_pretrained(str(path))
        return path

    return save


@pytest.fixture(scope="session")
def write_adapter() -> Callable[..., Path]:
    """Writes an adapter of one q_proj by hand; config fields and tensors can be replaced."""

    def write(
        path: Path,
        *,
        seed: int = 0,
        rank: int = 4,
        config: dict[str, Any] | None = None,
        tensors: dict[str, torch.Tensor] | None = None,
    ) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        fields = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": None}
        fields |= config or {}
        if tensors is None:
            generator = torch.Generator().manual_seed(seed)
            key = "base_model.model.model.layers.0.self_attn.q_proj"
            tensors = {
                f"{key}.lora_A.weight": torch.randn(rank, HIDDEN, generator=generator),
                f"{key}.lora_B.weight": torch.randn(HIDDEN, rank, generator=generator),
            }
        (path / "adapter_config.json").write_text(json.dumps(fields))
        safetensors.torch.save_file(tensors, path / "adapter_model.safetensors")
        return path

    return write


@pytest.fixture
def make_catalog(sites: tuple[LoraSite, ...]) -> Callable[..., AdapterCatalog]:
    """Makes a catalog in float32 for the tiny Llama."""

    def make(**options: Any) -> AdapterCatalog:
        settings: dict[str, Any] = {"dtype": torch.float32, "chunk_bytes": 4096} | options
        return AdapterCatalog(sites, **settings)

    return make
