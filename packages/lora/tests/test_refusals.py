"""What cannot be honoured exactly is refused by name; what has no effect is accepted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from plait_kernels.errors import AdapterError
from plait_lora.catalog import AdapterCatalog
from plait_lora.peft_config import PeftConfig
from plait_lora.peft_fields import CHECKED, HONOURED, REFUSED, WITHOUT_EFFECT
from plait_lora.request import LoRARequest

KEY = "base_model.model.model.layers.0.self_attn.q_proj"
BASE = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}

CHANGES_THE_MATHS = {
    "alora_invocation_tokens": [1, 2],
    "arrow_config": {"top_k": 2},
    "bias": "all",
    "fan_in_fan_out": True,
    "kasa_config": {},
    "layer_replication": [[0, 2], [1, 3]],
    "lora_bias": True,
    "megatron_config": {"tensor_model_parallel_size": 2},
    "modules_to_save": ["lm_head"],
    "monteclora_config": {},
    "target_parameters": ["mlp.experts"],
    "trainable_token_indices": [3],
    "use_bdlora": {"nblocks": 2},
    "use_dora": True,
    "use_qalora": True,
}


def test_every_field_of_peft_is_decided() -> None:
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    groups = (HONOURED, CHECKED, WITHOUT_EFFECT, frozenset(REFUSED))
    assert fields <= frozenset().union(*groups)
    assert sum(map(len, groups)) == len(frozenset().union(*groups)), "no field twice"


def test_every_refused_field_has_a_case() -> None:
    assert set(CHANGES_THE_MATHS) == set(REFUSED) | {"bias", "fan_in_fan_out"}


@pytest.mark.parametrize("field", CHANGES_THE_MATHS)
def test_a_field_that_changes_the_maths_is_refused(field: str) -> None:
    with pytest.raises(AdapterError, match=rf"the adapter: {field} is .*"):
        PeftConfig.parse(BASE | {field: CHANGES_THE_MATHS[field]}, "the adapter")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"init_lora_weights": "corda"}, "init_lora_weights"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights"),
        ({"init_lora_weights": "brand_new"}, "does not know"),
        ({"brand_new_field": 3}, "brand_new_field is 3"),
        ({"brand_new_field": {"on": True}}, "brand_new_field"),
        ({"hyper_scale": 2.0}, r"hyper_scale is 2\.0"),
        ({"metadata_scale": 2.0}, "metadata_scale"),
        ({"training_rank": 2}, "training_rank"),
        ({"use_metadata": True}, "use_metadata"),
        ({"lora_variant": "new"}, "lora_variant"),
        ({"mixing_method": "new"}, "mixing_method"),
        ({"enable_lora": [True, False, True]}, "enable_lora"),
        ({"fancy": [1, 2]}, "fancy"),
        ({"a" * 100_000: 1}, "aaa"),
        ({"fine_tune_type": "lora", "peft_type": None}, r"mlx-lm.*mlx_lm\.fuse"),
        ({"lora_parameters": {"rank": 8}, "peft_type": None}, "mlx-lm"),
        ({"r": 0}, "r is 0"),
        ({"r": 2.5}, r"r is 2\.5"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"lora_alpha": float("inf")}, "lora_alpha is inf"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern\['q_proj'\] is 0"),
        ({"alpha_pattern": {"(": 3}}, "alpha_pattern has .* no regular expression"),
        ({"target_modules": "("}, "target_modules has .* no regular expression"),
        ({"target_modules": [1]}, "target_modules"),
        ({"exclude_modules": {"a": 1}}, "exclude_modules"),
        ({"layers_to_transform": ["1"]}, "layers_to_transform"),
        ({"target_modules": "x", "layers_to_transform": [1]}, "layers_to_transform is set"),
    ],
)
def test_a_value_that_is_not_served_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(AdapterError, match=named):
        PeftConfig.parse(BASE | fields, "the adapter")


INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal", "mica", "GAUSSIAN")
NOTHING: tuple[object, ...] = (None, False, "", [], {}, 0)


@pytest.mark.parametrize(
    "fields",
    [
        *({"init_lora_weights": value} for value in INITIALISATIONS),
        *({field: None} for field in sorted(CHANGES_THE_MATHS)),
        *({"brand_new_field": value} for value in NOTHING),
        {"task_type": "SEQ_CLS", "inference_mode": True, "lora_dropout": 0.5, "revision": "x"},
        {"loftq_config": {"loftq_bits": 4}, "eva_config": {"rho": 2.0}, "qalora_group_size": 16},
        {"modules_to_save": [], "trainable_token_indices": [], "velora_config": {"scale": 1.0}},
        {"competition_metadata": {"name": "c", "place": 3, "scores": [0.5, 0.25]}},
        {"unsloth_fixed": True, "axolotl_version": "0.9.1", "_commit_hash": "abc", "$schema": 1},
        {"training_date": 20260101, "trainedBy": "us", "dataset": ["a"], "eval_loss": 0.25},
        {"x_internal": {"team": 7}, "purpose": "answers", "contacts": {"a": ["b", None]}},
        {"merge_weights": True, "weight_decay": 0.01, "learning_rate": 1e-4, "run-name": 5},
    ],
)
def test_a_field_without_effect_is_accepted(fields: dict[str, Any]) -> None:
    plain = PeftConfig.parse(BASE, "the adapter")
    assert PeftConfig.parse(BASE | fields, "the adapter") == plain


def pair(key: str = KEY, rank: int = 4, fan_in: int = 16, out: int = 16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        f"{key}.lora_A.weight": torch.randn(rank, fan_in, generator=generator),
        f"{key}.lora_B.weight": torch.randn(out, rank, generator=generator),
    }


LAYER_0 = {"target_modules": ["q_proj"], "layers_to_transform": [0]}
HEAD = "base_model.model.lm_head"
EMBED = "base_model.model.model.embed_tokens"

BAD_TENSORS: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor], str]] = {
    "no tensors": ({}, {}, "no lora_A and lora_B"),
    "unknown module": (
        {},
        pair("base_model.model.model.layers.0.attention.query"),
        r"'model.layers.0.attention.query', which matches no site .*layers\.\*\.self_attn\.q_proj "
        r"\(layers 0 to 2\)",
    ),
    "layer out of range": ({}, pair(KEY.replace(".0.", ".3.")), "matches no site"),
    "another prefix": ({}, pair("base_model.model.tower.layers.0.self_attn.q_proj"), "no site"),
    "no lora_B": ({}, {k: v for k, v in pair().items() if "_A" in k}, "has lora_A but no lora_B"),
    "no lora_A": ({}, {k: v for k, v in pair().items() if "_B" in k}, "has lora_B but no lora_A"),
    "rank of the config": ({"r": 8}, pair(rank=4), r"lora_A .* \[4, 16\]; with rank 8"),
    "in_features": ({}, pair(fan_in=12), r"lora_A .* shape \[4, 12\].* must be \[4, 16\]"),
    "out_features": ({}, pair(out=12), r"lora_B .* shape \[12, 4\].* must be \[16, 4\]"),
    "not a matrix": ({}, pair() | {f"{KEY}.lora_A.weight": torch.ones(64)}, r"shape \[64\]"),
    "dtype": ({}, {k: v.double() for k, v in pair().items()}, "dtype float64; allowed"),
    "integers": ({}, {k: v.to(torch.int8) for k, v in pair().items()}, "dtype int8; allowed"),
    "nan": ({}, {k: v * float("nan") for k, v in pair().items()}, "64 values that are NaN"),
    "inf": (
        {},
        {k: v.index_fill(0, torch.tensor([1]), torch.inf) for k, v in pair().items()},
        "NaN or infinite",
    ),
    "two adapters": (
        {},
        pair() | {f"{KEY}.lora_A.other.weight": torch.ones(4, 16)},
        "two tensors are lora_A",
    ),
    "two spellings": ({}, pair() | pair("base_model.model.layers.0.self_attn.q_proj"), "second"),
    "dora": (
        {},
        pair() | {f"{KEY}.lora_magnitude_vector": torch.ones(16)},
        "lora_magnitude_vector' is the magnitude of DoRA",
    ),
    "bias": ({}, pair() | {f"{KEY}.lora_B.bias": torch.ones(16)}, "lora_B.bias' is a bias"),
    "saved module": (
        {},
        pair() | {f"{HEAD}.modules_to_save.weight": torch.ones(40, 16)},
        "saved whole",
    ),
    "stray tensor": ({}, pair() | {"noise": torch.ones(1)}, "'noise' is neither"),
    "base weight": ({}, pair() | {f"{KEY}.weight": torch.ones(16, 16)}, "replaces a weight"),
    "resized": ({}, pair() | {f"{HEAD}.weight": torch.ones(41, 16)}, "vocabulary was resized"),
    "unproven copy": ({}, pair() | {f"{HEAD}.weight": torch.ones(40, 16)}, "nothing shows"),
    "embedding": (
        {},
        {
            f"{EMBED}.lora_embedding_A": torch.ones(4, 40),
            f"{EMBED}.lora_embedding_B": torch.ones(16, 4),
        },
        "'embed_tokens', where adapters are not served; they are served on down_proj, ",
    ),
    "linear on embedding": ({}, pair(EMBED), "is not of an embedding, but 'embed_tokens' is one"),
    "not targeted": (LAYER_0, pair(KEY.replace(".0.", ".1.")), "does not target"),
    "excluded": ({"exclude_modules": ["q_proj"]}, pair(), "does not target"),
    "missing layers": (
        {"target_modules": ["q_proj"]},
        pair(),
        "targets 'model.layers.1.self_attn.q_proj', but the weights hold no lora_A",
    ),
    "missing module": (
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [0]},
        pair(),
        "targets 'model.layers.0.self_attn.v_proj'",
    ),
    "missing head": (LAYER_0 | {"target_modules": ["q_proj", "lm_head"]}, pair(), "'lm_head'"),
    "all-linear": ({"target_modules": "all-linear"}, pair(), "k_proj"),
    "tied": (
        {"ensure_weight_tying": True},
        pair(HEAD, out=40),
        "ensure_weight_tying is set and 'lm_head'",
    ),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensors_that_do_not_fit_are_refused_and_leave_nothing(
    case: str,
    tmp_path: Path,
    write_adapter: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    config, tensors, message = BAD_TENSORS[case]
    path = write_adapter(tmp_path / "bad", config=config, tensors=tensors)
    catalog = make_catalog()
    with pytest.raises(AdapterError, match=message) as caught:
        catalog.resolve(LoRARequest("bad", 1, str(path)))
    assert "'bad' (id 1" in str(caught.value)
    with pytest.raises(AdapterError, match=message):
        catalog.add_tensors({"peft_type": "LORA", "r": 4} | config, tensors)
    assert (catalog.resident(), catalog.ids(), catalog.nbytes) == ((), set(), 0)


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        (LAYER_0, pair()),
        (LAYER_0 | {"target_modules": ["q_proj", "fc1"]}, pair()),
        (LAYER_0 | {"ensure_weight_tying": True}, pair()),
        ({"target_modules": r"model\.layers\.0\.self_attn\.(q_proj|qkv_proj)"}, pair()),
        ({}, pair("model.layers.0.self_attn.q_proj")),
        ({}, pair() | {f"{KEY}.lora_velora_embed.default": torch.ones(2)}),
    ],
)
def test_tensors_that_fit_are_accepted(
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    catalog = make_catalog()
    key = catalog.add_tensors({"peft_type": "LORA", "r": 4} | config, tensors)
    assert set(catalog.get(key).modules) == {0}


def test_a_rank_beyond_the_cap_is_refused(
    tmp_path: Path,
    write_adapter: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    request = LoRARequest("a", 1, str(write_adapter(tmp_path, rank=9)))
    with pytest.raises(AdapterError, match="has rank 9, more than max_lora_rank 8"):
        make_catalog(max_lora_rank=8).resolve(request)
    assert make_catalog(max_lora_rank=9).resolve(request) is not None


def test_a_value_that_overflows_the_dtype_is_refused(
    tmp_path: Path,
    write_adapter: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    tensors = {name: tensor * 1e6 for name, tensor in pair().items()}
    request = LoRARequest("a", 1, str(write_adapter(tmp_path, tensors=tensors)))
    with pytest.raises(AdapterError, match="too large for the adapters' dtype float16"):
        make_catalog(dtype=torch.float16).resolve(request)
    assert make_catalog(dtype=torch.bfloat16).resolve(request) is not None
