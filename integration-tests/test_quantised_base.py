"""Adapters whose files hold a copy of the head, on a base model that was quantised since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Types
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from plait import LLM, LoRARequest, SamplingParams
from plait_kernels.errors import AdapterError

PROMPT = [5, 9, 2, 7]
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attn_norm",
}


@pytest.fixture(scope="module")
def quantised(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in Q8_0, as llama.cpp's converter lays it out."""
    path = tmp_path_factory.mktemp("quantised") / "tiny-q8_0.gguf"
    base = LlamaForCausalLM.from_pretrained(tiny_model)
    config: Any = base.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    for name, parameter in base.named_parameters():
        values = parameter.detach().numpy()
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        if (count := heads.get(name.split(".")[-2])) is not None:
            # Numbers that are rotated together are neighbours in a GGUF file.
            split = values.reshape(count, 2, -1, values.shape[1])
            values = np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        kind = Types.Q8_0 if values.ndim == 2 else Types.F32
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def llm(quantised: Path) -> LLM:
    return LLM(
        model=str(quantised),
        dtype="float32",
        skip_tokenizer_init=True,
        enable_lora=True,
        num_gpu_blocks_override=32,
    )


@pytest.fixture(scope="module")
def adapter(save_tiny_adapter: Callable[..., Path]) -> Path:
    """An adapter of the head, with the copy of the unquantised head that PEFT adds."""
    path = save_tiny_adapter(seed=3, target_modules=["q_proj", "lm_head"])
    assert any(
        "lm_head.base_layer" in name for name in load_file(path / "adapter_model.safetensors")
    )
    return path


def test_a_copy_from_before_the_base_was_quantised_is_no_other_base(
    llm: LLM, quantised: Path, adapter: Path
) -> None:
    (output,) = llm.generate(
        [PROMPT], GREEDY, lora_request=LoRARequest("a", 1, str(adapter)), use_tqdm=False
    )
    base = AutoModelForCausalLM.from_pretrained(
        str(quantised.parent), gguf_file=quantised.name, dtype=torch.float32
    )
    head = base.lm_head.weight.detach().clone()
    oracle = PeftModel.from_pretrained(base, str(adapter))
    with torch.no_grad():
        oracle.get_base_model().lm_head.base_layer.weight.copy_(head)
        tokens = list(PROMPT)
        for _ in range(8):
            logits = oracle(torch.tensor([tokens])).logits[0, -1]
            tokens.append(int(logits.argmax()))
    assert output.outputs[0].token_ids == tokens[len(PROMPT) :]


def test_another_base_is_still_refused(llm: LLM, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    (name,) = [name for name in tensors if "lm_head.base_layer" in name]
    tensors[name][3, 5] += 0.02
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="differs from the weight of the base model"):
        llm.generate(
            [PROMPT], GREEDY, lora_request=LoRARequest("b", 2, str(tmp_path)), use_tqdm=False
        )
