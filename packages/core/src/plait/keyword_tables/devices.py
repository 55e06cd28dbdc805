"""Several devices, machines and processes: plait runs on one device, in one process."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from plait.keyword_tables.rules import refused, without_effect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait.keyword_tables.rules import Rule

_ONE = "plait runs on one device"
_ONE_PROCESS = "plait runs in one process"
_BETWEEN = "devices have nothing to say to each other, as there is one"
_EXPERTS = "no served architecture has experts"

DEVICES: Mapping[str, Rule] = MappingProxyType(
    refused(
        _ONE,
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        prefill_context_parallel_size=1,
        decode_context_parallel_size=1,
        data_parallel_size=1,
        data_parallel_size_local=1,
        data_parallel_rank=0,
        data_parallel_start_rank=0,
        data_parallel_hybrid_lb=False,
        data_parallel_external_lb=False,
        data_parallel_multi_port_external_lb=False,
        nnodes=1,
        node_rank=0,
        enable_batch_sharded_sampling=False,
        enable_dbo=False,
        ubatch_size=0,
        enable_elastic_ep=False,
        elastic_ep_max_dp_size=None,
        enable_fault_tolerance=False,
        fault_tolerance_config=None,
    )
    | refused(
        "plait runs in the caller's process on one device",
        distributed_executor_backend=("uni", "mp"),
        data_parallel_backend="mp",
        worker_cls="auto",
        worker_extension_cls=None,
    )
    | refused(
        "the first device is used; choose it with CUDA_VISIBLE_DEVICES",
        device_ids=([0], ["0"], (0,), ("0",)),
    )
    | refused(_EXPERTS, enable_expert_parallel=False, enable_eplb=False, eplb_config=None)
    | refused(_ONE_PROCESS, _api_process_count=1, _api_process_rank=(0, -1))
    | refused("there are no Ray workers", ray_workers_use_nsight=False)
    | without_effect(
        "which cores a process runs on is its caller's affair: use numactl",
        numa_bind=bool,
        numa_bind_nodes=list,
        numa_bind_cpus=list,
    )
    | without_effect(
        _BETWEEN,
        master_addr=str,
        master_port=int,
        distributed_timeout_seconds=int,
        cpu_distributed_timeout_seconds=int,
        data_parallel_address=str,
        data_parallel_rpc_port=int,
        dcp_comm_backend=("ag_rs", "a2a"),
        dcp_q_replicate=bool,
        dcp_kv_cache_interleave_size=int,
        cp_kv_cache_interleave_size=int,
        dp_sync_interval=int,
        disable_nccl_for_dp_synchronization=bool,
        disable_custom_all_reduce=bool,
        enable_hc_sp=bool,
        enable_nccl_comm_suspend=bool,
        fully_sharded_loras=bool,
        max_parallel_loading_workers=int,
        all2all_backend=str,
    )
    | without_effect(
        "there are no micro-batches",
        dbo_decode_token_threshold=int,
        dbo_prefill_token_threshold=int,
    )
    | without_effect(
        _EXPERTS,
        enable_ep_weight_filter=bool,
        expert_placement_strategy=("linear", "round_robin"),
        moe_backend=str,
    )
    | without_effect(_ONE_PROCESS, enable_shm_tensor_arena=bool)
)
"""By keyword."""
