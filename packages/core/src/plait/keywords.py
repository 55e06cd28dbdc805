"""Keywords that a vLLM user may pass: honoured, without effect here, or refused with the reason."""

from __future__ import annotations

import difflib
import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from plait_kernels.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_logger = logging.getLogger(__name__)

WITHOUT_EFFECT = frozenset(
    {
        "allow_deprecated_quantization",
        "allowed_local_media_path",
        "allowed_media_domains",
        "async_scheduling",
        "calculate_kv_scales",
        "code_revision",
        "collect_detailed_traces",
        "compilation_config",
        "config_format",
        "cudagraph_capture_sizes",
        "disable_cascade_attn",
        "disable_custom_all_reduce",
        "disable_hybrid_kv_cache_manager",
        "disable_log_requests",
        "disable_log_stats",
        "enable_chunked_prefill",
        "enable_log_requests",
        "enable_mfu_metrics",
        "fully_sharded_loras",
        "ignore_patterns",
        "kv_cache_metrics",
        "kv_sharing_fast_prefill",
        "long_prefill_token_threshold",
        "max_cudagraph_capture_size",
        "max_long_partial_prefills",
        "max_num_partial_prefills",
        "max_parallel_loading_workers",
        "max_seq_len_to_capture",
        "model_loader_extra_config",
        "mm_processor_cache_gb",
        "mm_processor_kwargs",
        "numa_bind",
        "optimization_level",
        "otlp_traces_endpoint",
        "performance_mode",
        "prefix_caching_hash_algo",
        "pt_load_map_location",
        "safetensors_load_strategy",
        "scheduler_reserve_full_isl",
        "scheduling_policy",
        "served_model_name",
        "show_hidden_metrics_for_version",
        "specialize_active_lora",
        "stream_interval",
        "swap_space",
        "tokenizer_mode",
        "use_tqdm_on_load",
    }
)
"""They tune vLLM's machinery; results do not depend on them."""

_ONE_DEVICE = "plait runs on one device"
_TEXT_ONLY = "plait serves text models only, so multimodal options have nothing to act on"
_GENERATE = "plait generates text; pooling, embedding and reward models are not served"
_MODEL_DTYPE = "the KV cache has the model's dtype"
_NOT_YET = "not supported in this version"

REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = MappingProxyType(
    {
        "additional_config": ((None, {}), _NOT_YET),
        "attention_backend": ((None,), "kernels are chosen with kernels='attention=…'"),
        "attention_config": ((None, {}), "kernels are chosen with kernels='attention=…'"),
        "convert": ((None, "auto", "none"), _GENERATE),
        "cpu_offload_gb": ((0,), "weights are not offloaded"),
        "data_parallel_backend": ((None, "mp"), _ONE_DEVICE),
        "data_parallel_size": ((1,), _ONE_DEVICE),
        "decode_context_parallel_size": ((1,), _ONE_DEVICE),
        "default_mm_loras": ((None, {}), _TEXT_ONLY),
        "disable_sliding_window": ((False,), "no served architecture has a sliding window"),
        "distributed_executor_backend": ((None, "uni", "mp"), _ONE_DEVICE),
        "enable_expert_parallel": ((False,), _ONE_DEVICE),
        "enable_lora_bias": ((False,), "LoRA biases are not served"),
        "enable_prompt_embeds": ((False,), "prompts are text or token ids"),
        "enable_sleep_mode": ((False,), _NOT_YET),
        "enable_tower_connector_lora": ((False,), _TEXT_ONLY),
        "generation_config": ((None, "auto"), _NOT_YET),
        "guided_decoding_backend": ((None, "auto"), "structured outputs are not supported yet"),
        "hf_config_path": ((None,), _NOT_YET),
        "hf_overrides": ((None, {}), _NOT_YET),
        "interleave_mm_strings": ((False,), _TEXT_ONLY),
        "kv_cache_dtype": ((None, "auto"), _MODEL_DTYPE),
        "kv_events_config": ((None,), _NOT_YET),
        "kv_offloading_size": ((None,), _NOT_YET),
        "kv_transfer_config": ((None,), _NOT_YET),
        "language_model_only": ((False,), _TEXT_ONLY),
        "limit_mm_per_prompt": ((None, {}), _TEXT_ONLY),
        "logits_processors": ((None, [], ()), "custom logits processors are not supported"),
        "logprobs_mode": ((None, "raw_logprobs"), "logprobs are those of the raw logits"),
        "mamba_cache_dtype": ((None, "auto"), "no served architecture has state-space layers"),
        "max_logprobs": ((None, 20, -1), "every number of logprobs is served"),
        "media_io_kwargs": ((None, {}), _TEXT_ONLY),
        "model_impl": ((None, "auto", "plait"), "models run on plait's own implementation"),
        "override_generation_config": ((None, {}), "pass sampling_params instead"),
        "pipeline_parallel_size": ((1,), _ONE_DEVICE),
        "pooler_config": ((None,), _GENERATE),
        "prefill_context_parallel_size": ((1,), _ONE_DEVICE),
        "quantization": ((None,), "weights are served in float32, bfloat16 or float16"),
        "reasoning_parser": ((None, ""), "plait returns plain text"),
        "runner": ((None, "auto", "generate"), _GENERATE),
        "scheduler_cls": ((None,), _NOT_YET),
        "skip_mm_profiling": ((False,), _TEXT_ONLY),
        "speculative_config": ((None,), "speculative decoding is not supported"),
        "structured_outputs_config": ((None, {}), "structured outputs are not supported yet"),
        "task": ((None, "auto", "generate"), _GENERATE),
        "tensor_parallel_size": ((1,), _ONE_DEVICE),
        "worker_cls": ((None, "auto"), _ONE_DEVICE),
        "worker_extension_cls": ((None, ""), _ONE_DEVICE),
    }
)
"""Accepted with the values given here only: name -> (values that ask for nothing, the reason)."""


def honoured_keywords(given: Mapping[str, Any], honoured: Iterable[str]) -> dict[str, Any]:
    """Return those of ``given`` that plait acts on.

    Parameters
    ----------
    given : Mapping[str, Any]
        Keywords of ``LLM`` or ``EngineArgs``.
    honoured : Iterable[str]
        Names that plait acts on.

    Raises
    ------
    InputError
        For a keyword that is unknown (the nearest known one is named), or that asks for something
        that plait does not do.
    """
    honoured = frozenset(honoured)
    kept = {}
    idle = []
    for name, value in given.items():
        if name in honoured:
            kept[name] = value
        elif name in WITHOUT_EFFECT:
            idle.append(name)
        elif name in REFUSED:
            _refuse_unless_neutral(name, value)
        else:
            known = sorted(honoured | WITHOUT_EFFECT | REFUSED.keys())
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see the documentation of EngineArgs"
            text = f"unknown keyword {name!r}: {hint}"
            raise InputError(text)
    if idle:
        _logger.info("accepted without effect: %s", ", ".join(sorted(idle)))
    return kept


def _refuse_unless_neutral(name: str, value: Any) -> None:
    neutral, reason = REFUSED[name]
    if not any(type(value) is type(item) and value == item for item in neutral):
        allowed = ", ".join(map(repr, neutral))
        text = f"{name}={value!r} is refused: {reason}; leave it out (allowed: {allowed})"
        raise InputError(text)
