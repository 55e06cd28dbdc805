"""How a GGUF file of the llama architecture names tensors, and which metadata is not honoured."""

from __future__ import annotations

import re

_TOP = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAME = re.compile(r"(?:blk\.(?P<block>\d+)\.)?(?P<module>\w+)\.(?P<kind>weight|bias)")

ROPE_FACTORS = "rope_freqs.weight"
"""Not a weight: what each inverse frequency is divided by."""

CHANGES_THE_MATHS = (
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "expert_count",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
)
"""Metadata (without the architecture's prefix) that is refused unless it is absent or 0."""


def hugging_face_name(name: str) -> str:
    """Translate the name of a tensor; one that is not known stays as it is."""
    match = _NAME.fullmatch(name)
    if match is None:
        return name
    block, module, kind = match["block"], match["module"], match["kind"]
    if block is None:
        return f"{_TOP[module]}.{kind}" if module in _TOP else name
    return f"model.layers.{int(block)}.{_IN_BLOCK[module]}.{kind}" if module in _IN_BLOCK else name
