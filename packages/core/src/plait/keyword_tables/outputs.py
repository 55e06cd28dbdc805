"""What a request may ask for, and what is told about it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from plait.keyword_tables.rules import refused, without_effect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait.keyword_tables.rules import Rule

_STRUCTURED = "structured outputs are not part of this version"
_SPECULATION = "speculative decoding is not part of this version"
_EXPERTS = "no served architecture has experts"
_TELLS = "it changes what is logged, counted or traced, and no answer"

OUTPUTS: Mapping[str, Rule] = MappingProxyType(
    refused("logprobs are the log-softmax of the raw logits", logprobs_mode="raw_logprobs")
    | refused("custom logits processors are not part of this version", logits_processors=None)
    | refused(_STRUCTURED, structured_outputs_config=None)
    | refused(
        _SPECULATION,
        speculative_config=None,
        spec_method=None,
        spec_model=None,
        spec_tokens=0,
        per_request_spec_decode_metrics="none",
    )
    | refused("no watermark is written", watermark_config=None)
    | refused("the tokens of a request are drawn, never given", enable_trace_replay=False)
    | refused(
        "an output holds text, tokens and logprobs",
        aux_output_config=None,
        return_sampling_mask=False,
    )
    | refused(
        _EXPERTS,
        enable_return_routed_experts=False,
        enable_mixed_moe_lora_format=False,
        enable_moe_shared_loras=False,
    )
    | refused("classification heads are not served", max_lora_cls_labels=None)
)
"""By keyword: what a request may ask for."""

OBSERVATION: Mapping[str, Rule] = MappingProxyType(
    refused("profile a program with `python -m plait.bench`", profiler_config=None)
    | without_effect(
        _TELLS,
        aggregate_engine_logging=bool,
        collect_detailed_traces=list,
        cudagraph_metrics=bool,
        custom_histogram_buckets=dict,
        disable_log_stats=bool,
        enable_layerwise_nvtx_tracing=bool,
        enable_log_requests=bool,
        enable_logging_iteration_details=bool,
        enable_mfu_metrics=bool,
        kv_cache_metrics=bool,
        kv_cache_metrics_sample=float,
        log_config_file=str,
        log_level=str,
        logging_config=object,
        otlp_traces_endpoint=str,
        show_hidden_metrics_for_version=str,
        watchdog_config=object,
    )
)
"""By keyword: what is told."""
