"""Shapes against published sizes and transformers, random adapters against peft."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from plait.bench.linears import (
    LINEARS,
    adapter_parameters,
    check_targets,
    linear_parameters,
    linear_sizes,
)
from plait.bench.random_adapters import make_folder, parent_folder, write_adapters
from plait.bench.shapes import SHAPES, write_shape
from plait_kernels.errors import InputError
from plait_models import read_config

PUBLISHED = {
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "smollm2-135m": 134_515_008,
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    write_shape(path.name, path)
    return path


def test_a_shape_has_the_sizes_of_its_model(shape: Path) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(shape)))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == PUBLISHED.get(shape.name, count)
    config = read_config(str(shape), "dummy")
    layer = model.model.layers[0]
    linears = {name: getattr(getattr(layer, LINEARS[name]), name) for name in LINEARS}
    assert linear_sizes(config) == {
        name: (linear.in_features, linear.out_features) for name, linear in linears.items()
    }
    in_layers = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if ".layers." in name and "norm" not in name
    )
    assert linear_parameters(config) == in_layers


def test_the_rope_of_llama_3_1(tmp_path: Path) -> None:
    write_shape("llama-3.1-8b", tmp_path / "model")
    config = read_config(str(tmp_path / "model"), "dummy")
    assert config.max_position == 131072
    assert config.rope_inv_freq[1] == pytest.approx(500000 ** (-2 / 128))
    # Scaled down by 8: waves longer than the 8192 positions the model was first trained on.
    assert config.rope_inv_freq[-1] == pytest.approx(500000 ** (-126 / 128) / 8)


def test_adapters_are_those_that_peft_reads(tmp_path: Path) -> None:
    write_shape("tiny", tmp_path / "model")
    config = read_config(str(tmp_path / "model"), "dummy")
    ranks, targets = [4, 8, 4], ["q_proj", "v_proj", "down_proj"]
    paths = write_adapters(config, tmp_path, ranks=ranks, targets=targets, seed=3)
    files = [load_file(Path(path) / "adapter_model.safetensors") for path in paths]
    for path, rank, tensors in zip(paths, ranks, files, strict=True):
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "model"))
        model = PeftModel.from_pretrained(base, path, autocast_adapter_dtype=False)
        layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
        assert len(layers) == len(targets) * config.layers
        for name, layer in layers.items():
            read = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            for half, weight in zip("AB", read, strict=True):
                torch.testing.assert_close(
                    weight.detach(), tensors[f"{name}.lora_{half}.weight"], check_dtype=False
                )
        values = torch.cat([tensor.flatten() for tensor in tensors.values()])
        assert len(values) == adapter_parameters(config, targets, rank)
        assert values.dtype == torch.bfloat16
        assert -0.002 < values.float().mean() < 0.002
        assert 0.018 < values.float().std() < 0.022
        assert json.loads((Path(path) / "adapter_config.json").read_text())["r"] == rank
    for name, first in files[0].items():
        assert (first != files[2][name]).float().mean() > 0.9
    assert write_adapters(config, tmp_path, ranks=[], targets=targets, seed=3) == []


def test_large_files_go_to_memory_if_there_is_room(tmp_path: Path) -> None:
    assert parent_folder(1, tmp_path) == str(tmp_path)
    assert parent_folder(1 << 60, tmp_path) is None
    assert parent_folder(1, tmp_path / "missing") is None
    with make_folder("it-", 1) as folder:
        assert Path(folder).name.startswith("it-")
    assert not Path(folder).exists()


@pytest.mark.parametrize("targets", [["q_proj", "query"], ["q_proj", "q_proj"], [""]])
def test_unknown_targets(targets: list[str]) -> None:
    check_targets(["q_proj", "v_proj"])
    with pytest.raises(InputError, match="not distinct names of linears; allowed: q_proj, "):
        check_targets(targets)
