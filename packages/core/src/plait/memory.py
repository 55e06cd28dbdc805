"""How much memory the engine gives to KV blocks and to adapters."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from plait_kernels.errors import OutOfMemoryError

KV_SHARE = 0.25
"""Of the memory left after the weights. The rest stays with the machine's other programs."""
LORA_SHARE = 0.1

_ALIGNMENT = 64


@dataclass(frozen=True)
class MemoryPlan:
    """Sizes of the two pools on the device.

    Attributes
    ----------
    num_blocks : int
        KV blocks.
    num_chunks : int
        Chunks of adapter memory, each as large as a KV block.
    chunk_bytes : int
        Of a chunk: those of a block, rounded up to what tiles are aligned to.
    """

    num_blocks: int
    num_chunks: int
    chunk_bytes: int


def available_bytes(device: torch.device) -> int:
    """Return the bytes that could still be allocated on ``device``."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return int(psutil.virtual_memory().available)


def plan_memory(
    *,
    block_bytes: int,
    block_size: int,
    max_model_len: int,
    max_num_seqs: int,
    available: int,
    kv_cache_memory_bytes: int | None,
    num_blocks: int | None,
    lora_memory_bytes: int | None,
    enable_lora: bool,
) -> MemoryPlan:
    """Divide the memory that is left.

    Parameters
    ----------
    block_bytes : int
        Bytes of one KV block, all layers.
    block_size : int
        Tokens of a block.
    max_model_len, max_num_seqs : int
        More blocks than these could fill are not taken.
    available : int
        Bytes left on the device.
    kv_cache_memory_bytes, num_blocks, lora_memory_bytes : int | None
        What the user asked for; ``num_blocks`` wins over the bytes.
    enable_lora : bool
        Without it no adapter memory is taken.

    Raises
    ------
    OutOfMemoryError
        If a single sequence of ``max_model_len`` does not fit.
    """
    per_sequence = -(-max_model_len // block_size)
    if num_blocks is None:
        kv_bytes = kv_cache_memory_bytes or int(available * KV_SHARE)
        num_blocks = min(kv_bytes // block_bytes, per_sequence * max_num_seqs)
    if num_blocks < per_sequence:
        text = (
            f"the KV cache has room for {num_blocks} blocks of {block_size} tokens "
            f"({num_blocks * block_bytes:,} bytes), but one sequence of max_model_len="
            f"{max_model_len} needs {per_sequence} ({per_sequence * block_bytes:,} bytes); "
            "raise kv_cache_memory_bytes or lower max_model_len"
        )
        raise OutOfMemoryError(text)
    lora_bytes = (lora_memory_bytes or int(available * LORA_SHARE)) if enable_lora else 0
    chunk_bytes = -(-block_bytes // _ALIGNMENT) * _ALIGNMENT
    return MemoryPlan(num_blocks, lora_bytes // chunk_bytes, chunk_bytes)
