"""Weight files: what is found, checked and refused."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import plait_models
from plait_kernels.config import BUCKETS
from plait_kernels.errors import ModelError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(path / "model.safetensors")
    change(tensors)
    save_file(tensors, path / "model.safetensors")


def test_every_fault_is_named_at_once(tiny_checkpoint: Any, build_kernels: Any) -> None:
    path, _ = tiny_checkpoint()

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
        tensors["model.norm.weight"] = torch.ones(31)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    rewrite(path, spoil)
    with pytest.raises(ModelError) as caught:
        plait_models.load(path, build_kernels=build_kernels)
    message = str(caught.value)
    assert "1 missing: model.layers.1.mlp.up_proj.weight" in message
    assert "1 unexpected: model.layers.0.self_attn.q_norm.weight" in message
    assert "1 of another shape: model.norm.weight [31] instead of [32]" in message


def test_inverse_frequencies_in_the_file_are_ignored(
    tiny_checkpoint: Any, build_kernels: Any
) -> None:
    path, _ = tiny_checkpoint()
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(path, lambda tensors: tensors.update({name: torch.ones(4)}))
    assert plait_models.load(path, build_kernels=build_kernels).info.layers == 3


def test_quantised_tensors_are_refused(tiny_checkpoint: Any, build_kernels: Any) -> None:
    path, _ = tiny_checkpoint()
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(path, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    with pytest.raises(ModelError, match=r"up_proj.weight is of dtype I8"):
        plait_models.load(path, build_kernels=build_kernels)


@pytest.mark.parametrize("differs", [False, True])
def test_a_tied_head_in_the_file(differs: bool, tiny_checkpoint: Any, build_kernels: Any) -> None:
    path, _ = tiny_checkpoint({"tie_word_embeddings": True})

    def add_head(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + float(differs)

    rewrite(path, add_head)
    if not differs:
        assert plait_models.load(path, build_kernels=build_kernels).info.vocab_size == 61
        return
    with pytest.raises(ModelError, match=r"lm_head.weight that differs"):
        plait_models.load(path, build_kernels=build_kernels)


def test_a_tied_pair_under_the_name_of_the_head(
    tiny_checkpoint: Any, build_kernels: Any, paged_run: Any
) -> None:
    path, oracle = tiny_checkpoint({"tie_word_embeddings": True})

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    rewrite(path, rename)
    model = plait_models.load(path, build_kernels=build_kernels)
    (got,) = paged_run(model, 1).step([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(got, oracle(torch.tensor([[1, 2, 3]])).logits[0])


def test_a_missing_shard_is_named(tiny_checkpoint: Any, build_kernels: Any) -> None:
    path, _ = tiny_checkpoint({}, max_shard_size="20KB")
    shard = sorted(path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=rf"1 of \d+ shards are missing: {shard.name}"):
        plait_models.load(path, build_kernels=build_kernels)


def test_a_cut_file_is_refused(tiny_checkpoint: Any, build_kernels: Any) -> None:
    path, _ = tiny_checkpoint()
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        plait_models.load(path, build_kernels=build_kernels)


def test_pickles_are_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"pytorch_model.bin.*save_pretrained"):
        plait_models.read_config(tmp_path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "model.safetensors.index.json"),
        (["config.json"], "model.safetensors.index.json"),
        (["model.safetensors"], "config.json is missing"),
        (["a.gguf", "b.gguf"], "a.gguf, b.gguf"),
    ],
)
def test_incomplete_directories(files: list[str], words: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=words):
        plait_models.read_config(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file or directory"):
        plait_models.read_config("meta-llama/Llama-3.1-8B")
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ModelError, match=r"model.onnx.*\.gguf"):
        plait_models.read_config(tmp_path / "model.onnx")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_config_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match=r"config.json.*Fetch the file again"):
        plait_models.read_config(tmp_path)


def test_progress_counts_the_bytes_of_the_file(tiny_checkpoint: Any, build_kernels: Any) -> None:
    path, oracle = tiny_checkpoint()
    seen: list[tuple[int, int]] = []
    plait_models.load(
        path, build_kernels=build_kernels, progress=lambda done, total: seen.append((done, total))
    )
    total = sum(p.nbytes for p in oracle.parameters())
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_dummy_weights_need_the_config_alone(
    tiny_checkpoint: Any, build_kernels: Any, paged_run: Any
) -> None:
    path, _ = tiny_checkpoint()
    (path / "model.safetensors").unlink()

    def logits(seed: int) -> torch.Tensor:
        model = plait_models.load(
            path, build_kernels=build_kernels, load_format="dummy", seed=seed, dtype="bfloat16"
        )
        (got,) = paged_run(model, 1).step([[4, 8, 15, 16, 23, 42]])
        assert isinstance(got, torch.Tensor)
        return got

    first = logits(1)
    assert first.isfinite().all()
    assert first.std(dim=-1).min() > 0.01
    assert torch.equal(first, logits(1))
    assert not torch.equal(first, logits(2))


def test_kernels_are_asked_for_once_before_the_weights(
    tiny_checkpoint: Any, build_kernels: Any
) -> None:
    path, _ = tiny_checkpoint()
    (path / "model.safetensors").write_bytes(b"not weights")
    asked: list[Any] = []

    def spy(configs: Any) -> Any:
        asked.append(configs)
        return build_kernels(configs)

    with pytest.raises(ModelError, match="not a whole safetensors file"):
        plait_models.load(path, build_kernels=spy, max_tokens=(2, 32), block_size=8)
    (configs,) = asked
    assert len(set(configs)) == len(configs)
    assert {config.op for config in configs} == {
        "rms_norm",
        "fused_add_rms_norm",
        "rotary_embedding",
        "silu_and_mul",
        "linear",
        "kv_write",
        "attention",
        "lora",
    }
    assert {(c.bucket, c.max_tokens) for c in configs} == {("decode", 2), ("prefill", 32)}
    (attention,) = [c for c in configs if c.op == "attention" and c.bucket == BUCKETS[0]]
    assert dict(attention.params) == {
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "block_size": 8,
        "scale": 8**-0.5,
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "float64"}, "float64.*bfloat16"),
        ({"load_format": "pickle"}, "pickle.*safetensors"),
        ({"load_format": "gguf"}, "no gguf weights"),
        ({"max_tokens": {"decode": 4}}, "prefill"),
        ({"max_tokens": (4, 0)}, "at least 1"),
    ],
)
def test_wrong_options(
    options: dict[str, Any], words: str, tiny_checkpoint: Any, build_kernels: Any
) -> None:
    path, _ = tiny_checkpoint()
    with pytest.raises(ModelError, match=words):
        plait_models.load(path, build_kernels=build_kernels, **options)


def test_an_index_without_a_map_is_refused(tiny_checkpoint: Any, build_kernels: Any) -> None:
    path, _ = tiny_checkpoint({}, max_shard_size="20KB")
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}}))
    with pytest.raises(ModelError, match="weight_map"):
        plait_models.load(path, build_kernels=build_kernels)


LEFTOVERS = {
    "model.layers.0.self_attn.rotary_emb.cos_cached": torch.ones(1, 1, 64, 8),
    "model.layers.0.self_attn.rotary_emb.sin_cached": torch.ones(1, 1, 64, 8),
    "model.rotary_emb.inv_freq": torch.ones(4),
    "v_head.summary.weight": torch.ones(1, 32),
    "v_head.summary.bias": torch.ones(1),
    "score.weight": torch.ones(1, 32),
    "model.layers.0.self_attn.masked_bias": torch.tensor(-1e4),
    "model.position_ids": torch.arange(64)[None],
    "model.layers.1.self_attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
}


def test_what_trainers_leave_in_a_file_is_ignored(
    tiny_checkpoint: Any, build_kernels: Any, paged_run: Any
) -> None:
    path, oracle = tiny_checkpoint()
    rewrite(path, lambda tensors: tensors.update(LEFTOVERS))
    model = plait_models.load(path, build_kernels=build_kernels)
    (got,) = paged_run(model, 1).step([[1, 2, 3]])
    with torch.no_grad():
        expected = oracle(torch.tensor([[1, 2, 3]])).logits[0]
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def without_prefix(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[name.removeprefix("model.")] = tensors.pop(name)


def change_config(path: Path, **fields: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    # As some editors on Windows write it.
    (path / "config.json").write_text(json.dumps({**config, **fields}), encoding="utf-8-sig")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["LlamaModel", "LlamaForCausalLM", "LLaMAForCausalLM"])
def test_names_without_their_prefix(
    name: str, tied: bool, tiny_checkpoint: Any, build_kernels: Any, paged_run: Any
) -> None:
    path, oracle = tiny_checkpoint({"tie_word_embeddings": tied})
    rewrite(path, without_prefix)
    change_config(path, architectures=[name])
    model = plait_models.load(path, build_kernels=build_kernels)
    (got,) = paged_run(model, 1).step([[1, 2, 3]])
    with torch.no_grad():
        expected = oracle(torch.tensor([[1, 2, 3]])).logits[0]
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_model_saved_without_its_head(tiny_checkpoint: Any, build_kernels: Any) -> None:
    path, _ = tiny_checkpoint()

    def cut(tensors: dict[str, torch.Tensor]) -> None:
        without_prefix(tensors)
        del tensors["lm_head.weight"]

    rewrite(path, cut)
    change_config(path, architectures=["LlamaModel"])
    with pytest.raises(ModelError, match=r"1 missing: lm_head.weight.*holds no head"):
        plait_models.load(path, build_kernels=build_kernels)


def test_integers_that_are_no_weights_are_not_called_quantised(
    tiny_checkpoint: Any, build_kernels: Any
) -> None:
    path, _ = tiny_checkpoint()
    rewrite(path, lambda tensors: tensors.update({"model.steps_seen": torch.tensor([5])}))
    with pytest.raises(ModelError, match=r"1 unexpected: model\.steps_seen") as caught:
        plait_models.load(path, build_kernels=build_kernels)
    assert "quantised" not in str(caught.value)
    name = "model.layers.0.mlp.up_proj"

    def quantise(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.steps_seen"]
        tensors[f"{name}.qweight"] = tensors.pop(f"{name}.weight").to(torch.int32)

    rewrite(path, quantise)
    with pytest.raises(ModelError, match=r"1 missing.*1 unexpected: .*qweight.*are quantised"):
        plait_models.load(path, build_kernels=build_kernels)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"vocab_size": 2**24, "hidden_size": 2**20}, "does not fit on cpu"),
        ({"intermediate_size": 2**22, "num_hidden_layers": 999}, "does not fit on cpu"),
        ({"max_position_embeddings": 2**27, "head_dim": 2**14}, "rotary embeddings"),
    ],
)
def test_what_cannot_fit_is_refused_before_it_is_allocated(
    fields: dict[str, int], words: str, tiny_checkpoint: Any
) -> None:
    path, _ = tiny_checkpoint()
    change_config(path, **fields)

    def never(configs: Any) -> Any:
        raise AssertionError

    with pytest.raises(OutOfMemoryError, match=words):
        plait_models.load(path, build_kernels=never, load_format="dummy")


def test_shapes_are_compared_before_memory_is_allocated(
    tiny_checkpoint: Any, build_kernels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = tiny_checkpoint()
    change_config(path, intermediate_size=2**20)
    made: list[Any] = []
    empty = torch.empty

    def spy(*shape: Any, **options: Any) -> torch.Tensor:
        if torch.device(options.get("device") or "cpu").type != "meta":
            made.append(shape)
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", spy)
    with pytest.raises(ModelError, match=r"9 of another shape"):
        plait_models.load(path, build_kernels=build_kernels)
    assert not made


def test_tables_are_as_long_as_what_will_run(tiny_checkpoint: Any, build_kernels: Any) -> None:
    path, _ = tiny_checkpoint()
    model = plait_models.load(path, build_kernels=build_kernels, max_positions=16)
    assert model.info.max_position == 16


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "model.gguf"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(
    name: str, tiny_checkpoint: Any, build_kernels: Any
) -> None:
    path, _ = tiny_checkpoint()
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    if name == "model.gguf":
        path = path / name
    with pytest.raises(ModelError):
        plait_models.load(path, build_kernels=build_kernels)


def test_a_pointer_of_git_lfs_is_told_as_one(tiny_checkpoint: Any, build_kernels: Any) -> None:
    path, _ = tiny_checkpoint()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (path / "model.safetensors").write_text(pointer)
    with pytest.raises(ModelError, match="git lfs pull"):
        plait_models.load(path, build_kernels=build_kernels)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", 5, None, ["x"]])
def test_an_index_names_files_beside_it(
    shard: object, tiny_checkpoint: Any, build_kernels: Any
) -> None:
    path, _ = tiny_checkpoint({}, max_shard_size="20KB")
    content = {"weight_map": {"lm_head.weight": shard}}
    (path / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="names the shard"):
        plait_models.load(path, build_kernels=build_kernels)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"adapter_config.json": {"base_model_name_or_path": "org/base", "r": 8}},
            "is an adapter and no model; its base is 'org/base'.*model='org/base'.*lora_request=",
        ),
        ({"adapter_config.json": {}}, "its base is not named"),
        ({"adapter_config.json": []}, "its config is damaged"),
        (
            {"adapter_config.json": {"fine_tune_type": "lora", "model": "mlx/m"}},
            "an adapter of mlx-lm and no model; its base is 'mlx/m'",
        ),
        ({"params.json": {}, "consolidated.00.pth": ""}, "convert_llama_weights_to_hf"),
        ({"config.json": {}, "weights.npz": ""}, "early versions of mlx"),
        ({"config.json": {}, "model.ckpt": ""}, "pickle files.*save_pretrained"),
        (
            {
                "config.json": {"model_type": "llama", "num_hidden_layers": 1},
                "consolidated.safetensors": "",
            },
            "the format of Mistral's own code",
        ),
    ],
)
def test_what_is_no_model_is_told_what_it_is(
    files: dict[str, Any], words: str, tmp_path: Path, build_kernels: Any
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=words):
        plait_models.load(tmp_path, build_kernels=build_kernels)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_to_nothing_is_told_as_one(
    name: str, tiny_checkpoint: Any, build_kernels: Any
) -> None:
    path, _ = tiny_checkpoint()
    (path / name).unlink()
    # So are files of a download whose cache was cleared.
    (path / name).symlink_to("gone")
    with pytest.raises(ModelError, match=rf"{name}.*link to nothing"):
        plait_models.load(path, build_kernels=build_kernels)
