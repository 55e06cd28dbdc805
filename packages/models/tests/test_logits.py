"""Logits of tiny models against transformers, through a paged KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import plait_models

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TINY: dict[str, Any] = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 40}
PROMPTS = [[5, 60, 0, 17, 17, 3, 44, 9, 21, 8, 30], [33], [7, 2, 58, 41, 12, 12, 19]]
DECODED = [[50, 1, 26], [9, 9, 40], [0, 35, 22]]

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS = {
    "gqa": {},
    "mha": {"num_key_value_heads": 4},
    "mqa": {"num_key_value_heads": 1},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "tied": {"tie_word_embeddings": True},
    "one_layer": {"num_hidden_layers": 1},
    "head_dim": {"head_dim": 12},
    "rope_theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    "rope_linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e3, "factor": 4.0}},
    "rope_dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e3, "factor": 2.0}},
    "rope_llama3": {"rope_parameters": LLAMA3},
}


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def run_both(model: Any, oracle: Any, paged_run: Any) -> float:
    """Prefill, a second chunk, then decode; the largest relative error of all logits."""
    run = paged_run(model, len(PROMPTS))
    chunks = [prompt[:4] for prompt in PROMPTS], [prompt[4:] or [6] for prompt in PROMPTS]
    decoded = [[[row[step]] for row in DECODED] for step in range(len(DECODED[0]))]
    steps = [*chunks, *decoded]
    outputs = [run.step(step) for step in steps]
    worst = 0.0
    for row in range(len(PROMPTS)):
        token_ids = [token for step in steps for token in step[row]]
        with torch.no_grad():
            expected = oracle(torch.tensor([token_ids])).logits[0].float()
        got = torch.cat([output[row] for output in outputs])
        worst = max(worst, relative_error(got, expected))
    return worst


@pytest.mark.parametrize("case", CONFIGS)
def test_logits_equal_transformers(
    case: str, tiny_checkpoint: Any, build_kernels: Any, paged_run: Any
) -> None:
    path, oracle = tiny_checkpoint(CONFIGS[case])
    model = plait_models.load(path, build_kernels=build_kernels, block_size=4)
    assert model.info.dtype == torch.float32
    assert run_both(model, oracle, paged_run) < 1e-4


def test_sharded_files(tiny_checkpoint: Any, build_kernels: Any, paged_run: Any) -> None:
    path, oracle = tiny_checkpoint({}, max_shard_size="20KB")
    assert len(list(path.glob("model-*.safetensors"))) > 2
    model = plait_models.load(path, build_kernels=build_kernels)
    assert run_both(model, oracle, paged_run) < 1e-4


def test_mistral_without_a_window(tmp_path: Path, build_kernels: Any, paged_run: Any) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(5)
    config = MistralConfig(
        **TINY,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        sliding_window=None,
    )
    oracle = MistralForCausalLM(config).eval()
    oracle.save_pretrained(tmp_path)
    model = plait_models.load(tmp_path, build_kernels=build_kernels)
    assert run_both(model, oracle, paged_run) < 1e-4


def test_mistral_up_to_its_window(tmp_path: Path, build_kernels: Any, paged_run: Any) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(6)
    config = MistralConfig(
        **TINY,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        sliding_window=16,
        # Else transformers may choose kernels that take no window.
        attn_implementation="eager",
    )
    oracle = MistralForCausalLM(config).eval()
    oracle.save_pretrained(tmp_path)
    model = plait_models.load(tmp_path, build_kernels=build_kernels)
    assert model.info.max_position == 16
    assert_equal_over(model, oracle, paged_run, 16)


def assert_equal_over(model: Any, oracle: Any, paged_run: Any, length: int) -> None:
    generator = torch.Generator().manual_seed(2)
    token_ids = torch.randint(0, 61, (length,), generator=generator).tolist()
    run = paged_run(model, 1, max_length=length)
    got = torch.cat(
        [run.step([token_ids[: length - 5]])[0], run.step([token_ids[length - 5 :]])[0]]
    )
    with torch.no_grad():
        expected = oracle(torch.tensor([token_ids])).logits[0].float()
    assert relative_error(got, expected) < 1e-4


def test_linear_scaling_makes_room_for_more(
    tiny_checkpoint: Any, build_kernels: Any, paged_run: Any
) -> None:
    path, oracle = tiny_checkpoint(CONFIGS["rope_linear"])
    model = plait_models.load(path, build_kernels=build_kernels)
    assert model.info.max_position == 256
    assert_equal_over(model, oracle, paged_run, 256)


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.06), ("float16", 0.01)])
def test_half_precision(
    dtype: str, bound: float, tiny_checkpoint: Any, build_kernels: Any, paged_run: Any
) -> None:
    path, oracle = tiny_checkpoint({"attention_bias": True})
    model = plait_models.load(path, build_kernels=build_kernels, dtype=dtype)
    assert model.info.dtype_name == dtype
    assert model.info.kv_dtype == getattr(torch, dtype)
    assert run_both(model, oracle, paged_run) < bound


def test_auto_takes_the_dtype_of_the_config(
    tiny_checkpoint: Callable[..., tuple[Path, Any]], build_kernels: Any
) -> None:
    path, oracle = tiny_checkpoint()
    oracle.to(torch.bfloat16).save_pretrained(path)
    assert plait_models.read_config(path).dtype == "bfloat16"
    assert plait_models.load(path, build_kernels=build_kernels).info.dtype == torch.bfloat16
