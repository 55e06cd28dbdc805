"""GGUF files: tiny ones written here, and the demo model against transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Types

import plait_models
from plait_kernels.errors import ModelError
from plait_models.files.gguf import GgufFile
from plait_models.llama.calls import op_configs
from plait_models.llama.model import LlamaModel
from plait_models.llama.weights import allocate
from plait_models.weights import copy_weights

if TYPE_CHECKING:
    from pathlib import Path

PROMPT = [5, 60, 0, 17, 17, 3, 44, 9]

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if not name.startswith("model.layers."):
        return f"{NAMES[module]}.{kind}"
    layer, _, module = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[module]}.{kind}"


def neighbours(weight: np.ndarray, heads: int) -> np.ndarray:
    """Order rows as the converter of llama.cpp does for q and k."""
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undo ``neighbours``."""
    split = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path,
    oracle: Any,
    kind: Types = Types.F32,
    *,
    metadata: dict[str, Any] | None = None,
    extra: dict[str, np.ndarray] | None = None,
    packed: dict[str, tuple[np.ndarray, Types]] | None = None,
) -> Path:
    config = oracle.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    for key, value in (metadata or {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_float32
        add(key, value)
    for name, parameter in oracle.named_parameters():
        if packed and name in packed:
            data, one = packed[name]
            writer.add_tensor(gguf_name(name), data, raw_dtype=one)
            continue
        values = parameter.detach().numpy()
        if ".q_proj." in name:
            values = neighbours(values, config.num_attention_heads)
        elif ".k_proj." in name:
            values = neighbours(values, config.num_key_value_heads)
        one = kind if values.ndim == 2 else Types.F32
        data = gguf.quants.quantize(np.ascontiguousarray(values), one)
        writer.add_tensor(gguf_name(name), data, raw_dtype=one)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits_of(path: Path, build_kernels: Any, paged_run: Any) -> torch.Tensor:
    model = plait_models.load(path, build_kernels=build_kernels)
    assert model.info.dtype == torch.float32
    (logits,) = paged_run(model, 1).step([PROMPT])
    return logits  # type: ignore[no-any-return]


def expected_logits(oracle: Any, prompt: list[int] = PROMPT) -> torch.Tensor:
    with torch.no_grad():
        return oracle(torch.tensor([prompt])).logits[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "fields", [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}]
)
def test_logits_of_a_float32_file(
    fields: dict[str, Any], tmp_path: Path, tiny_checkpoint: Any, build_kernels: Any, paged_run: Any
) -> None:
    _, oracle = tiny_checkpoint(fields)
    path = write_gguf(tmp_path / "tiny.gguf", oracle)
    got, expected = logits_of(path, build_kernels, paged_run), expected_logits(oracle)
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        (Types.F16, 2**-11),
        (Types.BF16, 2**-8),
        (Types.Q8_0, 1 / 254 + 2**-10),
        (Types.Q4_0, 1 / 8 + 2**-10),
        (Types.Q4_1, 1 / 15 + 2**-8),
    ],
)
def test_formats_stay_within_their_precision(
    kind: Types, bound: float, tmp_path: Path, tiny_checkpoint: Any
) -> None:
    _, oracle = tiny_checkpoint({"intermediate_size": 64})
    file = GgufFile(write_gguf(tmp_path / "tiny.gguf", oracle, kind))
    weights = file.weights(file.config())
    assert set(weights.entries) == {name for name, _ in oracle.named_parameters()}
    for name, parameter in oracle.named_parameters():
        got, expected = weights.read(name), parameter.detach()
        assert got.dtype == torch.float32
        assert got.shape == expected.shape
        if expected.ndim == 2:
            # Formats of blocks share a scale among 32 numbers of a row.
            blocks = (expected - got).abs().view(-1, 32), expected.abs().view(-1, 32)
            error, largest = blocks[0].amax(-1), blocks[1].amax(-1)
            assert (error <= bound * largest + 1e-7).all()
        else:
            assert torch.equal(got, expected)


def random_blocks(rng: np.random.Generator, rows: int, columns: int, kind: Types) -> np.ndarray:
    """Pack random weights of both signs, some hundredths large, in blocks of Q4_K or Q6_K."""
    blocks = rng.integers(0, 256, (rows, columns // 256, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    scale = rng.uniform(0.5, 1.5, (rows, columns // 256, 1))
    if kind == Types.Q4_K:
        # scale · 6 bits · 4 bits − minimum · 6 bits
        parts = (1e-4 * scale).astype(np.float16), (7.5e-4 * scale).astype(np.float16)
        blocks[..., :4] = np.concatenate(parts, axis=-1).view(np.uint8)
    else:
        assert kind == Types.Q6_K
        blocks[..., -2:] = (2e-5 * scale).astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def test_logits_of_a_file_of_mixed_types(
    tmp_path: Path, tiny_checkpoint: Any, build_kernels: Any, paged_run: Any
) -> None:
    _, oracle = tiny_checkpoint({"hidden_size": 256, "intermediate_size": 512})
    rng = np.random.default_rng(5)
    packed = {}
    # As llama-quantize mixes types in Q4_K_M: the head and some of v and down have more bits.
    finer = ("lm_head", "layers.0.self_attn.v_proj", "layers.0.mlp.down_proj")
    for name, parameter in oracle.named_parameters():
        if parameter.ndim == 1:
            continue
        kind = Types.Q6_K if any(part in name for part in finer) else Types.Q4_K
        rows, columns = parameter.shape
        data = random_blocks(rng, rows, columns, kind)
        packed[name] = data, kind
        values = gguf.dequantize(data, kind)
        if ".q_proj." in name:
            values = halves(values, oracle.config.num_attention_heads)
        elif ".k_proj." in name:
            values = halves(values, oracle.config.num_key_value_heads)
        parameter.data = torch.from_numpy(np.array(values))
    path = write_gguf(tmp_path / "mixed.gguf", oracle, packed=packed)
    assert {tensor.tensor_type for tensor in gguf.GGUFReader(path).tensors} == {
        Types.F32,
        Types.Q4_K,
        Types.Q6_K,
    }
    got, expected = logits_of(path, build_kernels, paged_run), expected_logits(oracle)
    assert expected.std() > 0.05
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_linear_scaling_and_rope_factors(tmp_path: Path, tiny_checkpoint: Any) -> None:
    _, oracle = tiny_checkpoint()
    plain = plait_models.read_config(write_gguf(tmp_path / "plain.gguf", oracle))
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    scaled = plait_models.read_config(write_gguf(tmp_path / "scaled.gguf", oracle, metadata=linear))
    factors = np.array([1.0, 1.0, 2.5, 8.0], dtype=np.float32)
    divided = plait_models.read_config(
        write_gguf(tmp_path / "divided.gguf", oracle, extra={"rope_freqs.weight": factors})
    )
    base = np.array(oracle.model.rotary_emb.inv_freq.tolist())
    np.testing.assert_allclose(plain.rope_inv_freq, base, rtol=1e-6)
    np.testing.assert_allclose(scaled.rope_inv_freq, base / 4, rtol=1e-6)
    np.testing.assert_allclose(divided.rope_inv_freq, base / factors, rtol=1e-6)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"llama.rope.scaling.type": "yarn"}, "'yarn'; allowed: none, linear"),
        ({"llama.logit_scale": 2.0}, r"llama.logit_scale = 2"),
        ({"llama.rope.dimension_count": 4.0}, r"dimension_count is 4"),
        ({"llama.attention.value_length": 4.0}, r"value_length is 4"),
    ],
)
def test_metadata_that_changes_the_maths(
    metadata: dict[str, Any], words: str, tmp_path: Path, tiny_checkpoint: Any
) -> None:
    _, oracle = tiny_checkpoint()
    with pytest.raises(ModelError, match=words):
        plait_models.read_config(write_gguf(tmp_path / "x.gguf", oracle, metadata=metadata))


def test_unknown_tensors_are_named(
    tmp_path: Path, tiny_checkpoint: Any, build_kernels: Any
) -> None:
    _, oracle = tiny_checkpoint()
    extra = {"blk.0.attn_q_norm.weight": np.ones(8, dtype=np.float32)}
    path = write_gguf(tmp_path / "x.gguf", oracle, extra=extra)
    with pytest.raises(ModelError, match=r"1 unexpected: blk.0.attn_q_norm.weight"):
        plait_models.load(path, build_kernels=build_kernels)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGML" + bytes(64))
    with pytest.raises(ModelError, match="not a whole GGUF file"):
        plait_models.read_config(path)
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"'gpt2'; allowed: 'llama'"):
        plait_models.read_config(path)


def test_demo_model_equals_transformers(
    demo_gguf: Path, build_kernels: Any, paged_run: Any
) -> None:
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(
        demo_gguf.parent, gguf_file=demo_gguf.name, dtype=torch.float32
    ).eval()
    file = GgufFile(demo_gguf)
    config = file.config()
    weights = allocate(config, torch.float32, torch.device("cpu"))
    copy_weights(file.weights(config), weights.named, tied={}, report=lambda done, total: None)
    expected_weights = dict(oracle.named_parameters())
    assert set(weights.named) == set(expected_weights)
    for name, weight in weights.named.items():
        assert torch.equal(weight, expected_weights[name]), name
    configs = op_configs(config, "float32", 16, {"decode": 1, "prefill": 8})
    model = LlamaModel(config, weights, build_kernels(configs), block_size=16)
    prompt = [1, 4093, 198, 504, 3575, 282, 4649, 314]
    (got,) = paged_run(model, 1).step([prompt])
    expected = expected_logits(oracle, prompt)
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_factors_of_frequencies_are_bounded_before_they_are_read(
    tmp_path: Path, tiny_checkpoint: Any
) -> None:
    _, oracle = tiny_checkpoint()
    path = write_gguf(
        tmp_path / "tiny.gguf", oracle, extra={"rope_freqs.weight": np.ones(2**15, np.float32)}
    )
    with pytest.raises(ModelError, match=r"rope_freqs\.weight holds 32768 numbers"):
        GgufFile(path).config()
