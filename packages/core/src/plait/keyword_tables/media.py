"""Images, video and sound: plait serves text models only."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from plait.keyword_tables.rules import NoItems, refused, without_effect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait.keyword_tables.rules import Rule

_TEXT_ONLY = "plait serves text models only, so multimodal options have nothing to act on"

MEDIA: Mapping[str, Rule] = MappingProxyType(
    {"limit_mm_per_prompt": NoItems(_TEXT_ONLY)}
    | refused(
        _TEXT_ONLY,
        default_mm_loras=None,
        enable_mm_embeds=False,
        enable_tower_connector_lora=False,
        interleave_mm_strings=False,
        media_io_kwargs=None,
        mm_encoder_only=False,
        mm_encoder_fp8_scale_save_path=None,
        video_pruning_rate=0,
    )
    | without_effect(
        _TEXT_ONLY,
        allowed_local_media_path=str,
        allowed_media_domains=list,
        disable_chunked_mm_input=bool,
        ec_manager_config=object,
        enable_mm_processor_stats=bool,
        # Asks for what plait does anyway.
        language_model_only=bool,
        mm_device_do_normalize=bool,
        mm_encoder_attn_backend=str,
        mm_encoder_attn_dtype=("fp8",),
        mm_encoder_fp8_scale_path=str,
        mm_encoder_fp8_scale_save_margin=float,
        mm_encoder_tp_mode=("weights", "data"),
        mm_hasher_algorithm=("blake3", "sha256", "sha512"),
        mm_ipc_gpu_memory_gb=float,
        mm_processor_cache_gb=float,
        mm_processor_cache_type=("lru", "shm"),
        mm_processor_device=str,
        mm_processor_kwargs=dict,
        mm_shm_cache_max_object_size_mb=int,
        mm_tensor_ipc=("direct_rpc", "torch_shm"),
        skip_mm_profiling=bool,
        video_pruning_method=("evs", "vidcom2"),
    )
)
"""By keyword."""
