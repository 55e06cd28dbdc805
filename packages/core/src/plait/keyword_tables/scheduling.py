"""When requests run, and what memory they run in."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from plait.keyword_tables.rules import refused, without_effect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait.keyword_tables.rules import Rule

_ORDER = "it changes when a request runs and never what it answers"
_NO_WINDOW = "no sequence is longer than its model's sliding window"
_NO_STATES = "no served architecture has state-space layers or linear attention"
_RESIDENT = "weights are not offloaded"
_NOT_QUEUED_AWAY = "every request is queued, and none is turned away"

SCHEDULING: Mapping[str, Rule] = MappingProxyType(
    without_effect(
        _ORDER,
        async_scheduling=bool,
        long_prefill_token_threshold=int,
        long_prefill_token_threshold_adaptive=bool,
        prefill_schedule_interval=int,
        scheduler_reserve_full_isl=bool,
        watermark=float,
    )
    | without_effect("prompts are always computed in chunks", enable_chunked_prefill=bool)
    | without_effect(
        "requests are served by priority, and those of one priority in order of arrival",
        scheduling_policy=("fcfs", "priority"),
    )
    | refused("use max_num_seqs", max_num_active_seqs=None)
    | refused("use max_num_batched_tokens", max_num_scheduled_tokens=None)
    | refused(_NOT_QUEUED_AWAY, max_num_queued_reqs=None, max_num_queued_tokens=None)
    | refused("plait's scheduler cannot be exchanged", scheduler_cls=None)
    | refused("every step with a new token gives an output", stream_interval=1)
    | refused("requests in flight are aborted when an engine is shut down", shutdown_timeout=0)
)
"""By keyword: when requests run."""

MEMORY: Mapping[str, Rule] = MappingProxyType(
    refused(_RESIDENT, cpu_offload_gb=0, offload_group_size=0)
    | without_effect(
        _RESIDENT,
        cpu_offload_params=list,
        offload_backend=("auto", "uva", "prefetch"),
        offload_num_in_group=int,
        offload_params=list,
        offload_prefetch_step=int,
    )
    | refused("KV blocks are not offloaded", kv_offloading_size=0)
    | without_effect("KV blocks are not offloaded", kv_offloading_backend=("native", "lmcache"))
    | refused(
        "KV blocks are not sent to other engines",
        ec_transfer_config=None,
        kv_events_config=None,
        kv_transfer_config=None,
    )
    | refused("a cached prefix ends where a block does: use block_size", prefix_match_unit=None)
    | refused("layers do not share KV blocks", kv_sharing_fast_prefill=False)
    | without_effect(
        "identity in the prefix cache is exact",
        prefix_caching_hash_algo=("sha256", "sha256_cbor", "xxhash", "xxhash_cbor"),
    )
    | without_effect("the KV cache is not quantised", kv_cache_dtype_skip_layers=list)
    | without_effect("memory is allocated once", enable_cumem_allocator=bool)
    | without_effect(
        _NO_WINDOW,
        disable_hybrid_kv_cache_manager=bool,
        disable_sliding_window=bool,
        prefix_cache_retention_interval=int,
        swa_bounded_replay=bool,
    )
    | without_effect(
        _NO_STATES,
        enable_mamba_cache_stochastic_rounding=bool,
        enable_mamba_shared_prefix_checkpoint=bool,
        gdn_prefill_backend=str,
        kda_decode_backend=str,
        kda_prefill_backend=str,
        mamba_backend=object,
        mamba_block_size=int,
        mamba_cache_dtype=str,
        mamba_cache_mode=str,
        mamba_cache_philox_rounds=int,
        mamba_config=object,
        mamba_ssm_cache_dtype=str,
        mamba_ssu_algorithm=str,
        replayssm_buffer_len=int,
        use_replayssm=bool,
    )
)
"""By keyword: memory."""
