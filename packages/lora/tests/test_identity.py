"""AdapterKey: the same content has the same key, other content another."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from plait_lora.catalog import AdapterCatalog
from plait_lora.identity import AdapterKey, distinct_keys, fresh_key
from plait_lora.request import LoRARequest

Resolve = Callable[[Path], AdapterKey]


@pytest.fixture
def resolve(make_catalog: Callable[..., AdapterCatalog]) -> Resolve:
    """The key that a catalog of its own gives a directory."""

    def key_of(path: Path) -> AdapterKey:
        key = make_catalog().resolve(LoRARequest("a", 1, str(path)))
        assert key is not None
        return key

    return key_of


@pytest.mark.parametrize(
    "config",
    [
        {"base_model_name_or_path": "elsewhere", "inference_mode": True, "lora_dropout": 0.5},
        {"target_modules": ["q_proj"], "layers_to_transform": [0]},
        {"lora_alpha": 16, "alpha_pattern": {"q_proj": 8}},
        {"r": 64, "lora_alpha": 8, "rank_pattern": {"q_proj": 4}},
        {"lora_alpha": 4, "use_rslora": True},
    ],
)
def test_a_config_of_the_same_effect_has_the_same_key(
    config: dict[str, Any], tmp_path: Path, write_adapter: Callable[..., Path], resolve: Resolve
) -> None:
    first = write_adapter(tmp_path / "first")
    second = write_adapter(tmp_path / "second", config=config)
    assert resolve(first) == resolve(second)


@pytest.mark.parametrize("config", [{"lora_alpha": 9}, {"use_rslora": True}])
def test_a_config_of_another_effect_has_another_key(
    config: dict[str, Any], tmp_path: Path, write_adapter: Callable[..., Path], resolve: Resolve
) -> None:
    first = write_adapter(tmp_path / "first")
    assert resolve(first) != resolve(write_adapter(tmp_path / "second", config=config))


def test_the_spelling_of_names_and_the_order_do_not_matter(
    tmp_path: Path, write_adapter: Callable[..., Path], resolve: Resolve
) -> None:
    first = write_adapter(tmp_path / "first")
    tensors = safetensors.torch.load_file(first / "adapter_model.safetensors")
    renamed = {
        name.replace("base_model.model.model.", "base_model.model.").replace(
            "lora_A.", "lora_A.default."
        ): tensor
        for name, tensor in reversed(tensors.items())
    }
    assert resolve(first) == resolve(write_adapter(tmp_path / "second", tensors=renamed))


def test_every_value_matters(
    tmp_path: Path, write_adapter: Callable[..., Path], resolve: Resolve
) -> None:
    first = write_adapter(tmp_path / "first")
    tensors = safetensors.torch.load_file(first / "adapter_model.safetensors")
    keys = {resolve(first)}
    for i, name in enumerate(tensors):
        changed = {key: tensor.clone() for key, tensor in tensors.items()}
        changed[name][-1, -1] += 1e-6
        keys.add(resolve(write_adapter(tmp_path / str(i), tensors=changed)))
    halved = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    keys.add(resolve(write_adapter(tmp_path / "bfloat16", tensors=halved)))
    other = {name.replace("q_proj", "o_proj"): tensor for name, tensor in tensors.items()}
    keys.add(resolve(write_adapter(tmp_path / "o_proj", tensors=other)))
    assert len(keys) == 5


def test_the_key_does_not_depend_on_the_dtype_it_is_served_in(
    tmp_path: Path, write_adapter: Callable[..., Path], make_catalog: Callable[..., AdapterCatalog]
) -> None:
    request = LoRARequest("a", 1, str(write_adapter(tmp_path)))
    keys = {make_catalog(dtype=d).resolve(request) for d in (torch.float32, torch.bfloat16)}
    assert len(keys) == 1


def test_the_key_is_the_documented_digest(
    tmp_path: Path, write_adapter: Callable[..., Path], resolve: Resolve
) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{key}.lora_A.weight": torch.arange(16, dtype=torch.float32).reshape(1, 16),
        f"{key}.lora_B.weight": -torch.arange(16, dtype=torch.float32).reshape(16, 1),
    }
    path = write_adapter(tmp_path, rank=1, tensors=tensors)
    header = (
        b'{"format":1,"modules":{"layers.0.self_attn.q_proj":{"scale":"0x1.0000000000000p+3",'
        b'"tensors":{"A":["float32",[1,16]],"B":["float32",[16,1]]}}}}'
    )
    values = struct.pack("<32f", *range(16), *(-float(i) for i in range(16)))
    digest = hashlib.sha256(struct.pack("<Q", len(header)) + header + values).hexdigest()
    assert resolve(path) == f"sha256:{digest}"


def test_fresh_keys_differ_and_distinct_keys_keep_order() -> None:
    a, b = fresh_key(), fresh_key()
    assert a != b
    assert distinct_keys(((b, 1.0), (a, 0.5), (b, -1.0))) == (b, a)
