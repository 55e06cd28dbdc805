"""How a step is computed: kernels, compilation and captured steps."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from plait.keyword_tables.rules import Rule, Settings, WithoutEffect, refused, without_effect

if TYPE_CHECKING:
    from collections.abc import Mapping

_ATTENTION = (
    "it names vLLM's kernels of one mathematics; ours are chosen with kernels='attention=…'"
)
_COMPILED = "plait decides itself what is compiled and captured"
_OTHERS = "kernels are chosen with kernels='OP=BACKEND,…'"

ATTENTION_BACKENDS = (
    "auto",
    "FLASH_ATTN",
    "FLASHINFER",
    "TRITON_ATTN",
    "FLEX_ATTENTION",
    "TORCH_SDPA",
    "CPU_ATTN",
    "ROCM_ATTN",
)
"""vLLM's names of kernels for the attention that the served architectures have.

Its other names are of another mathematics (MLA, sparse, quantised), which no answer here is of.
"""

_BY_NAME: dict[str, Rule] = {
    "attention_backend": WithoutEffect(_ATTENTION, ATTENTION_BACKENDS),
    "attention_config": Settings(
        _ATTENTION,
        {
            "backend": WithoutEffect(_ATTENTION, ATTENTION_BACKENDS),
            "flash_attn_version": WithoutEffect(_ATTENTION, (2, 3, 4)),
            "flash_attn_max_num_splits_for_cuda_graph": WithoutEffect(_ATTENTION, int),
            "use_trtllm_attention": WithoutEffect(_ATTENTION, bool),
        },
    ),
}

KERNELS: Mapping[str, Rule] = MappingProxyType(
    _BY_NAME
    | refused(
        _OTHERS, ir_op_priority=None, kernel_config=None, linear_backend="auto", monokernel=False
    )
    | refused("what is compiled after the start is not watched", jit_monitor_mode="warn")
    | without_effect(
        _COMPILED,
        compilation_config=object,
        cudagraph_capture_sizes=list,
        disable_cascade_attn=bool,
        enable_flashinfer_autotune=bool,
        jit_monitor_verbose=bool,
        max_cudagraph_capture_size=int,
        optimization_level=object,
        performance_mode=("balanced", "interactivity", "throughput"),
        specialize_active_lora=bool,
    )
    | without_effect("no served architecture has sparse attention", sparse_indexer_topk_backend=str)
    | without_effect("draws are computed in float64", use_fp64_gumbel=bool)
)
"""By keyword."""
