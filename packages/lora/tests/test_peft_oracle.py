"""Adapters saved by PEFT itself: what is parsed is PEFT's own delta weight."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from plait_kernels.errors import AdapterError
from plait_kernels.sites import SITE_GROUPS, LoraSite
from plait_lora.adapter import Adapter
from plait_lora.catalog import AdapterCatalog
from plait_lora.request import LoRARequest

Q, V = "self_attn.q_proj", "self_attn.v_proj"

VARIANTS: dict[str, dict[str, Any]] = {
    "list": {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]},
    "full names": {"r": 2, "target_modules": [f"model.layers.1.{Q}", "layers.0.mlp.up_proj"]},
    "rslora": {"r": 5, "lora_alpha": 16, "use_rslora": True, "target_modules": ["o_proj"]},
    "regex": {"r": 3, "target_modules": r".*\.layers\.[02]\.(self_attn\.k_proj|mlp\..*_proj)"},
    "all-linear": {"r": 1, "target_modules": "all-linear"},
    "rank_pattern": {
        "r": 2,
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 7, r".*\.2\..*": 9, "down_proj": 3},
    },
    "alpha_pattern": {
        "r": 4,
        "lora_alpha": 3,
        "target_modules": ["q_proj", "gate_proj"],
        "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 11, "gate_proj": 2.5},
    },
    "both patterns, rslora": {
        "r": 4,
        "use_rslora": True,
        "target_modules": ["k_proj", "v_proj"],
        "rank_pattern": {"v_proj": 6},
        "alpha_pattern": {"v_proj": 5, "layers.0.self_attn.k_proj": 32},
    },
    "layers_to_transform": {
        "r": 4,
        "target_modules": ["q_proj", "model.layers.0.mlp.up_proj"],
        "layers_to_transform": [1, 2],
    },
    "one layer, pattern": {
        "r": 4,
        "target_modules": ["q_proj"],
        "layers_to_transform": 2,
        "layers_pattern": "layers",
    },
    "exclude list": {
        "r": 2,
        "target_modules": ["q_proj", "v_proj"],
        "exclude_modules": ["layers.1.self_attn.q_proj"],
    },
    "exclude regex": {"r": 2, "target_modules": "all-linear", "exclude_modules": r".*\.mlp\..*"},
    "head": {"r": 4, "target_modules": ["lm_head", "q_proj"]},
    "embedding": {"r": 3, "lora_alpha": 5, "target_modules": ["embed_tokens", "v_proj"]},
    "irrelevant fields": {
        "r": 4,
        "lora_dropout": 0.3,
        "task_type": "CAUSAL_LM",
        "target_modules": ["q_proj"],
        "revision": "main",
    },
}


def delta(adapter: Adapter, site: LoraSite) -> torch.Tensor:
    module = adapter.modules[site.index]
    return module.scale * (module.b.double() @ module.a.double())


def peft_deltas(model: Any) -> dict[str, torch.Tensor]:
    """PEFT's own delta weight, [out, in], by site name."""
    deltas = {}
    for name, module in model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            weight = module.get_delta_weight("default").detach()
            site = name.removeprefix("base_model.model.").removeprefix("model.")
            deltas[site] = weight.T if isinstance(module, peft.tuners.lora.Embedding) else weight
    return deltas


def check(adapter: Adapter, expected: dict[str, torch.Tensor], sites: tuple[LoraSite, ...]) -> None:
    by_name = {site.name: site for site in sites}
    assert {sites[index].name for index in adapter.modules} == set(expected)
    for name, weight in expected.items():
        # Of an embedding PEFT's delta is [vocabulary, hidden]; B · A is [hidden, vocabulary].
        torch.testing.assert_close(
            delta(adapter, by_name[name]), weight.double(), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_deltas_are_those_of_peft(
    variant: dict[str, Any],
    tmp_path: Path,
    sites: tuple[LoraSite, ...],
    make_peft: Callable[..., Any],
    save_peft: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    model = make_peft(**variant)
    path = save_peft(model, tmp_path)
    catalog = make_catalog(served_groups=SITE_GROUPS)
    key = catalog.resolve(LoRARequest("a", 1, str(path)))
    assert key is not None
    adapter = catalog.get(key)
    expected = peft_deltas(model)
    assert expected
    check(adapter, expected, sites)
    assert adapter.groups == {sites[index].group for index in adapter.modules}
    assert adapter.max_rank == max(module.rank for module in adapter.modules.values())
    tensors = [t for module in adapter.modules.values() for t in (module.a, module.b)]
    assert adapter.nbytes == catalog.nbytes == sum(t.numel() * 4 for t in tensors)


def test_scales_of_rslora_are_alpha_over_the_root_of_the_rank(
    tmp_path: Path,
    make_peft: Callable[..., Any],
    save_peft: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    model = make_peft(r=5, lora_alpha=16, use_rslora=True, target_modules=["o_proj"])
    catalog = make_catalog()
    key = catalog.resolve(LoRARequest("a", 1, str(save_peft(model, tmp_path))))
    assert key is not None
    assert {m.scale for m in catalog.get(key).modules.values()} == {16 / math.sqrt(5)}


def test_an_adapter_of_the_inner_model_has_no_model_prefix(
    tmp_path: Path,
    sites: tuple[LoraSite, ...],
    make_base: Callable[[], Any],
    make_peft: Callable[..., Any],
    save_peft: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    config: dict[str, Any] = {"r": 2, "target_modules": ["q_proj", "up_proj"]}
    model = make_peft(make_base().model, rank_pattern={"layers.1.mlp.up_proj": 5}, **config)
    catalog = make_catalog()
    key = catalog.resolve(LoRARequest("a", 1, str(save_peft(model, tmp_path))))
    assert key is not None
    check(catalog.get(key), peft_deltas(model), sites)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tensors_in_memory_with_the_name_of_the_adapter(
    dtype: torch.dtype,
    sites: tuple[LoraSite, ...],
    make_base: Callable[[], Any],
    make_peft: Callable[..., Any],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    model = make_peft(make_base(), r=4, target_modules=["q_proj", "down_proj"])
    tensors = {k: v.to(dtype) for k, v in model.state_dict().items() if "lora_" in k}
    assert any(".lora_A.default.weight" in name for name in tensors)
    config = model.peft_config["default"].to_dict()
    catalog = make_catalog()
    first, second = catalog.add_tensors(config, tensors), catalog.add_tensors(config, tensors)
    assert first != second, "what is handed over in memory gets a fresh key"
    expected = peft_deltas(model.to(dtype).to(torch.float32))
    check(catalog.get(first), expected, sites)
    for tensor in tensors.values():
        tensor.zero_()
    check(catalog.get(second), expected, sites)


def test_a_packed_projection_is_split_onto_its_sites(
    sites: tuple[LoraSite, ...], make_catalog: Callable[..., AdapterCatalog]
) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = {"self_attn.qkv_proj": (16, 8, 8), "mlp.gate_up_proj": (24, 24)}
    tensors: dict[str, torch.Tensor] = {}
    whole: dict[str, torch.Tensor] = {}
    for layer in range(3):
        for name, outs in rows.items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            a = torch.randn(5, 16, generator=generator)
            b = torch.randn(sum(outs), 5, generator=generator)
            tensors |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
            whole[f"layers.{layer}.{name}"] = 2.0 * (b.double() @ a.double())
    config = {
        "peft_type": "LORA",
        "r": 5,
        "lora_alpha": 10,
        "target_modules": ["qkv_proj", "gate_up_proj"],
    }
    catalog = make_catalog()
    adapter = catalog.get(catalog.add_tensors(config, tensors))
    by_name = {site.name: site for site in sites}
    for layer in range(3):
        qkv = [by_name[f"layers.{layer}.self_attn.{x}_proj"] for x in "qkv"]
        gate_up = [by_name[f"layers.{layer}.mlp.{x}_proj"] for x in ("gate", "up")]
        for parts, name in ((qkv, "self_attn.qkv_proj"), (gate_up, "mlp.gate_up_proj")):
            stacked = torch.cat([delta(adapter, part) for part in parts])
            torch.testing.assert_close(stacked, whole[f"layers.{layer}.{name}"])
            shared = {adapter.modules[part.index].a.data_ptr() for part in parts}
            assert len(shared) == 1, "the parts share one A"
    assert adapter.nbytes == sum(tensor.numel() * 4 for tensor in tensors.values())


def test_a_copy_of_the_head_is_compared_with_the_base_model(
    tmp_path: Path,
    make_base: Callable[[], Any],
    make_peft: Callable[..., Any],
    save_peft: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    path = save_peft(make_peft(r=2, target_modules=["lm_head"]), tmp_path)
    head = make_base().lm_head.weight.detach()
    request = LoRARequest("a", 1, str(path))
    for dtype in (torch.float32, torch.bfloat16):
        weight = head.to(dtype)
        assert make_catalog(base_weight=lambda site, w=weight: w).resolve(request) is not None
    with pytest.raises(AdapterError, match="differs from the weight of the base model"):
        make_catalog(base_weight=lambda site: head + 1).resolve(request)
