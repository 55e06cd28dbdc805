"""Keywords of older versions of vLLM."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from plait.keyword_tables.rules import refused, without_effect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait.keyword_tables.rules import Rule

_GONE = "vLLM has dropped it"

OLDER: Mapping[str, Rule] = MappingProxyType(
    without_effect(
        _GONE,
        calculate_kv_scales=bool,
        cuda_graph_sizes=list,
        disable_async_output_proc=bool,
        disable_log_requests=bool,
        disable_mm_preprocessor_cache=bool,
        engine_use_ray=bool,
        max_context_len_to_capture=int,
        max_long_partial_prefills=int,
        max_num_partial_prefills=int,
        max_seq_len_to_capture=int,
        num_lookahead_slots=int,
        num_scheduler_steps=int,
        preemption_mode=("recompute", "swap"),
        swap_space=float,
        use_v2_block_manager=bool,
    )
    | refused("plait generates text", task=("auto", "generate"))
    | refused("biases of LoRA are not served", enable_lora_bias=False)
    | refused("adapters add no tokens", lora_extra_vocab_size=(0, 256))
    | refused("the model's context is not extended for an adapter", long_lora_scaling_factors=None)
    | refused("structured outputs are not part of this version", guided_decoding_backend="auto")
    | refused("change the model's config.json instead", rope_scaling=None, rope_theta=None)
    | refused("prompt adapters are not served", enable_prompt_adapter=False)
    | refused(
        "speculative decoding is not part of this version",
        speculative_model=None,
        num_speculative_tokens=0,
    )
    | refused("plait runs in the caller's process on one device", worker_use_ray=False)
)
"""By keyword."""
