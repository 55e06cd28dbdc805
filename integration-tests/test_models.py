"""Models as people have them, through the whole engine: answers are those of transformers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from plait import LLM, SamplingParams, TokensPrompt
from plait_kernels.errors import InputError, ModelError

if TYPE_CHECKING:
    from pathlib import Path

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
}


def engine(path: Path, **options: Any) -> LLM:
    return LLM(model=str(path), skip_tokenizer_init=True, num_gpu_blocks_override=40, **options)


def answers_equal(llm: LLM, oracle: Any, prompt: list[int], count: int) -> bool:
    params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True)
    output = llm.generate([TokensPrompt(prompt_token_ids=prompt)], params, use_tqdm=False)[0]
    token_ids = [*prompt, *output.outputs[0].token_ids]
    with torch.no_grad():
        logits = oracle(torch.tensor([token_ids])).logits[0, len(prompt) - 1 : -1]
    top = logits.topk(2).values
    is_clear = top[:, 0] - top[:, 1] > 1e-3
    same = logits.argmax(-1) == torch.tensor(token_ids[len(prompt) :])
    assert len(same) == count
    return bool((same | ~is_clear).all())


def test_mistral_is_served_up_to_its_window(tmp_path: Path) -> None:
    torch.manual_seed(0)
    oracle = MistralForCausalLM(
        MistralConfig(**SIZES, sliding_window=32, attn_implementation="eager")
    ).eval()
    oracle.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"max_model_len=48.*32 positions \(from sliding_window"):
        engine(tmp_path, max_model_len=48)
    llm = engine(tmp_path)
    assert llm.llm_engine.core.info.max_model_len == 32
    assert answers_equal(llm, oracle, list(range(3, 23)), 12)


def test_linear_scaling_is_served_over_its_whole_length(tmp_path: Path) -> None:
    torch.manual_seed(1)
    rope = {"rope_type": "linear", "rope_theta": 1e3, "factor": 4.0}
    oracle = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope)).eval()
    oracle.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    # The early spelling, of a file that an editor has marked.
    config |= {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 1e3}
    config |= {"architectures": ["LLaMAForCausalLM"], "pretraining_tp": 2}
    del config["rope_parameters"]
    path.write_text(json.dumps(config), encoding="utf-8-sig")
    llm = engine(tmp_path, max_model_len=256)
    prompt = [(7 * i) % 128 for i in range(200)]
    assert answers_equal(llm, oracle, prompt, 50)


def test_an_adapter_as_a_model_says_how_it_is_used(tmp_path: Path) -> None:
    config = {"base_model_name_or_path": "org/base", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ModelError, match=r"its base is 'org/base'.*lora_request=LoRARequest"):
        LLM(model=str(tmp_path))
