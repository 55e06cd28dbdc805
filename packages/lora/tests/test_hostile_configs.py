"""Configs that nobody writes by accident: bounded messages, PEFT's reading where it has one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch

from plait_kernels.errors import AdapterError
from plait_lora.catalog import AdapterCatalog
from plait_lora.peft_config import PeftConfig, decode_config
from plait_lora.request import LoRARequest

BASE = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
LONG = "x" * 10_000_000
KEY = "base_model.model.model.layers.0.self_attn.q_proj"

MEGABYTES: dict[str, Any] = {
    "peft_type": LONG,
    "bias": LONG,
    "fan_in_fan_out": LONG,
    "init_lora_weights": LONG,
    "r": LONG,
    "lora_alpha": LONG,
    "use_rslora": LONG,
    "rank_pattern": LONG,
    "alpha_pattern": {"(" + LONG: 3},
    "target_modules": "(" + LONG,
    "exclude_modules": "(" + LONG,
    "layers_to_transform": LONG,
    "use_dora": LONG,
    "modules_to_save": [LONG] * 3,
    "hyper_scale": {"a": {"b": [LONG] * 100}},
    "target_parameters": [LONG],
    "alora_invocation_tokens": list(range(100_000)),
}


@pytest.mark.parametrize("field", MEGABYTES)
def test_a_message_does_not_repeat_megabytes(field: str) -> None:
    with pytest.raises(AdapterError) as caught:
        PeftConfig.parse(BASE | {field: MEGABYTES[field]}, "the adapter")
    assert len(str(caught.value)) < 1000
    assert field in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"r": 8.0},
        {"r": "8"},
        {"r": None},
        {"r": -1},
        {"r": [8]},
        {"r": 10**5000},
        {"lora_alpha": "16"},
        {"lora_alpha": True},
        {"lora_alpha": None},
        {"lora_alpha": 10**5000},
        {"lora_alpha": [16]},
        {"rank_pattern": {"q_proj": 4.0}},
        {"rank_pattern": {"q_proj": True}},
        {"alpha_pattern": {"q_proj": None}},
        {"rank_pattern": [["q_proj", 4]]},
        {"target_modules": {"q_proj": 1}},
        {"target_modules": 3},
        {"target_modules": [["q_proj"]]},
        {"layers_to_transform": 1.0},
        {"layers_to_transform": {"0": 1}},
        {"layers_pattern": 3, "layers_to_transform": [0]},
        {"use_rslora": 1},
        {"ensure_weight_tying": "no"},
    ],
)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_field(
    fields: dict[str, Any],
) -> None:
    with pytest.raises(AdapterError, match=f"the adapter: {next(iter(fields))}") as caught:
        PeftConfig.parse(BASE | fields, "the adapter")
    assert len(str(caught.value)) < 600


def test_a_negative_alpha_and_rsloras_of_it_are_those_of_peft(
    tmp_path: Path,
    make_peft: Callable[..., Any],
    save_peft: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    for number, rslora in enumerate((False, True)):
        model = make_peft(r=4, lora_alpha=-6, use_rslora=rslora, target_modules=["o_proj"])
        catalog = make_catalog()
        path = save_peft(model, tmp_path / str(number))
        key = catalog.resolve(LoRARequest("a", 1, str(path)))
        assert key is not None
        scales = {
            module.scaling["default"]
            for module in model.modules()
            if isinstance(module, peft.tuners.lora.LoraLayer)
        }
        assert {module.scale for module in catalog.get(key).modules.values()} == scales


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.decode().encode("utf-16"),
        lambda text: text.replace(b'"r": 4', b'"r": 9, "r": 4'),  # the last one counts
        lambda text: text.replace(b'"r": 4', b'"r": 4, "r\\u006e": null'),
        lambda text: b"\n\n" + text + b"\n" * 1000,
    ],
    ids=["byte order mark", "utf-16", "twice the same key", "escapes", "white space"],
)
def test_json_is_read_as_python_reads_it(
    change: Callable[[bytes], bytes],
    tmp_path: Path,
    write_adapter: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    path = write_adapter(tmp_path)
    file = path / "adapter_config.json"
    plain = file.read_bytes()
    assert change(plain) != plain
    file.write_bytes(change(plain))
    assert make_catalog().resolve(LoRARequest("a", 1, str(path))) is not None


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": ' * 90_000,
        b'{"r": ' + b"9" * 100_000 + b"}",
        b'{"r": 1e999999}',
        b'{"r": -Infinity}',
        b"\xff\xfe",
        b'{"r": "\xff"}',
        b"{} {}",
        b"{'r': 4}",
        b"{" + b'"a":[],' * 100_000 + b'"b":NaN}',
    ],
    ids=lambda data: f"{data[:12]!r}, {len(data)}",
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    def parse() -> PeftConfig:
        return PeftConfig.parse(BASE | decode_config(data, "the adapter"), "the adapter")

    with pytest.raises(AdapterError, match=r"adapter_config\.json|r is inf") as caught:
        parse()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "name",
    [
        LONG[:1_000_000],
        f"{KEY}.lora_A.{LONG[:300_000]}.weight.x",
        f"base_model.model.{LONG[:300_000]}.lora_A.weight",
        f"{KEY}.lora_magnitude_vector.{LONG[:300_000]}",
        f"_orig_mod.{KEY}.lora_A.weight",
        f"base_model.model.{KEY}.lora_A.weight",
        f"module.{KEY}.lora_A.weight",
        f"{KEY}.lora_A..weight",
        ".lora_A.weight",
        "lora_A.weight",
        "",
        "\ud800",
        "模型.lora_A.weight",
    ],
    ids=lambda name: f"{name[:30]!a}, {len(name)}",
)
def test_tensors_of_strange_names_are_refused_by_name(
    name: str, make_catalog: Callable[..., AdapterCatalog]
) -> None:
    catalog = make_catalog()
    with pytest.raises(AdapterError, match="tensor '") as caught:
        catalog.add_tensors({"peft_type": "LORA", "r": 4}, {name: torch.ones(4, 16)})
    assert len(str(caught.value)) < 1200
    assert (catalog.resident(), catalog.nbytes) == ((), 0)


def test_many_tensors_and_many_targets_are_answered_soon(
    tmp_path: Path,
    write_adapter: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    names = [f"model.layers.{i}.self_attn.{x}_proj" for i in range(5000) for x in "qkvo"]
    path = write_adapter(tmp_path / "names", config={"target_modules": names})
    with pytest.raises(AdapterError, match=r"targets 'model.layers.0.self_attn.k_proj'"):
        make_catalog().resolve(LoRARequest("a", 1, str(path)))
    ranks = {f"model.layers.{i}.mlp.up_proj": 3 for i in range(20_000)}
    path = write_adapter(tmp_path / "ranks", config={"rank_pattern": ranks})
    assert make_catalog().resolve(LoRARequest("a", 1, str(path))) is not None
    tensors = {f"noise.{i}": torch.ones(1) for i in range(5000)}
    path = write_adapter(tmp_path / "tensors")
    safetensors.torch.save_file(tensors, path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="tensor 'noise"):
        make_catalog().resolve(LoRARequest("a", 1, str(path)))


def test_a_config_of_the_largest_size_is_decoded(
    tmp_path: Path,
    write_adapter: Callable[..., Path],
    make_catalog: Callable[..., AdapterCatalog],
) -> None:
    path = write_adapter(tmp_path)
    file = path / "adapter_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps(fields | {"notes": "x" * (4 << 20)}))
    with pytest.raises(AdapterError, match=r"adapter_config\.json has \d+ bytes, and at most"):
        make_catalog().resolve(LoRARequest("a", 1, str(path)))
    file.write_text(json.dumps(fields | {"notes": "x" * (3 << 20)}))
    assert make_catalog().resolve(LoRARequest("a", 1, str(path))) is not None
