"""How much memory the engine gives to KV blocks and to adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from plait_kernels.errors import OutOfMemoryError

KV_SHARE = 0.25
"""Of a host's memory left after the weights. The rest stays with the machine's other programs."""
LORA_SHARE = 0.1

_ALIGNMENT = 64
_TOKEN_BYTES = 4


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
    max_model_len : int
        Longest sequence in tokens: what was asked for, or what fits.
    """

    num_blocks: int
    num_chunks: int
    chunk_bytes: int
    max_model_len: int


class Memory(Protocol):
    """What can be divided, and how it is if the user does not say."""

    @property
    def free(self) -> int:
        """Bytes that there are at all, whatever share of them is the engine's."""

    def lora_bytes(self, kv_bytes: int) -> int:
        """Return what adapters get; ``kv_bytes`` are those that the user asked for, or 0."""

    def kv_bytes(self, lora_bytes: int) -> int:
        """Return what KV blocks get beside adapters that take ``lora_bytes``."""

    def explain(self) -> tuple[str, str]:
        """Say where the bytes went, and which arguments give more of them to KV blocks."""


@dataclass(frozen=True)
class HostMemory:
    """Memory of a machine that also runs other programs.

    Attributes
    ----------
    available : int
        Bytes left, weights loaded.
    """

    available: int

    @property
    def free(self) -> int:
        """Bytes that there are at all."""
        return self.available

    def lora_bytes(self, kv_bytes: int) -> int:
        """Return a tenth."""
        return int(self.available * LORA_SHARE)

    def kv_bytes(self, lora_bytes: int) -> int:
        """Return a quarter."""
        return int(self.available * KV_SHARE)

    def explain(self) -> tuple[str, str]:
        """Say where the bytes went, and what helps."""
        return f"{self.available:,} bytes are left on this machine", "raise kv_cache_memory_bytes"


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of a GPU, of which the engine may use a share.

    Attributes
    ----------
    total : int
        Bytes of the device.
    utilization : float
        The share, ``gpu_memory_utilization``.
    used : int
        In use already: the weights, and whatever other programs hold.
    activations : int
        What the largest step takes.
    graphs : int
        What captured steps take.
    """

    total: int
    utilization: float
    used: int
    activations: int
    graphs: int

    @property
    def free(self) -> int:
        """Bytes that nobody uses, whatever share of the device is the engine's."""
        return max(0, self.total - self.used)

    @property
    def available(self) -> int:
        """Bytes for KV blocks and adapters."""
        share = int(self.total * self.utilization)
        return max(0, share - self.used - self.activations - self.graphs)

    def lora_bytes(self, kv_bytes: int) -> int:
        """Return a tenth, or the less that KV blocks leave."""
        return min(int(self.available * LORA_SHARE), max(0, self.available - kv_bytes))

    def kv_bytes(self, lora_bytes: int) -> int:
        """Return what adapters leave."""
        return max(0, self.available - lora_bytes)

    def explain(self) -> tuple[str, str]:
        """Say where the bytes went, and what helps."""
        text = (
            f"of {self.total:,} bytes on the device the engine may use {self.utilization:.0%} "
            f"(gpu_memory_utilization); {self.used:,} are in use, {self.activations:,} are for "
            f"activations and {self.graphs:,} for CUDA graphs"
        )
        remedies = (
            "raise gpu_memory_utilization, or lower max_num_batched_tokens, max_num_seqs or "
            "lora_memory_bytes"
        )
        return text, remedies


def plan_memory(
    memory: Memory,
    *,
    block_bytes: int,
    block_size: int,
    max_model_len: int,
    max_num_seqs: int,
    kv_cache_memory_bytes: int | None,
    num_blocks: int | None,
    lora_memory_bytes: int | None,
    enable_lora: bool,
    shorten: bool = False,
) -> MemoryPlan:
    """Divide the memory that is left.

    Parameters
    ----------
    memory : Memory
    block_bytes : int
        Bytes of one KV block, all layers.
    block_size : int
        Tokens of a block.
    max_model_len, max_num_seqs : int
        More blocks than these could fill are not taken.
    kv_cache_memory_bytes, num_blocks, lora_memory_bytes : int | None
        What the user asked for; ``num_blocks`` wins over the bytes.
    enable_lora : bool
        Without it no adapter memory is taken.
    shorten : bool
        If a sequence of ``max_model_len`` does not fit, make do with the longest that does.

    Raises
    ------
    OutOfMemoryError
        If a single sequence of ``max_model_len`` does not fit, or what the user asked for is more
        than there is.
    """
    per_sequence = -(-max_model_len // block_size)
    most_blocks = per_sequence * max_num_seqs
    limit = None
    if num_blocks is not None:
        limit = "num_gpu_blocks_override"
    elif kv_cache_memory_bytes is not None:
        limit = "kv_cache_memory_bytes"
    if num_blocks is None and kv_cache_memory_bytes is not None:
        num_blocks = min(kv_cache_memory_bytes // block_bytes, most_blocks)
    lora_bytes = 0
    if enable_lora:
        lora_bytes = lora_memory_bytes or memory.lora_bytes((num_blocks or 0) * block_bytes)
    if num_blocks is None:
        num_blocks = min(memory.kv_bytes(lora_bytes) // block_bytes, most_blocks)
    asked = num_blocks * block_bytes + lora_bytes
    if asked > memory.free:
        text = (
            f"{num_blocks} KV blocks of {block_bytes:,} bytes and {lora_bytes:,} bytes for "
            f"adapters are {asked:,} bytes, and {memory.free:,} are left; lower "
            "num_gpu_blocks_override, kv_cache_memory_bytes or lora_memory_bytes"
        )
        raise OutOfMemoryError(text)
    if shorten and 0 < num_blocks < per_sequence:
        max_model_len = num_blocks * block_size
    elif num_blocks < per_sequence:
        where, remedies = memory.explain()
        if limit is not None:
            remedies = f"raise {limit}"
        text = (
            f"the KV cache has room for {num_blocks} blocks of {block_size} tokens "
            f"({num_blocks * block_bytes:,} bytes), but one sequence of max_model_len="
            f"{max_model_len} needs {per_sequence} ({per_sequence * block_bytes:,} bytes): "
            f"{where}, and adapters get {lora_bytes:,}; {remedies}, or lower max_model_len"
        )
        raise OutOfMemoryError(text)
    chunk_bytes = -(-block_bytes // _ALIGNMENT) * _ALIGNMENT
    return MemoryPlan(num_blocks, lora_bytes // chunk_bytes, chunk_bytes, max_model_len)


def check_rows(max_num_seqs: int, max_model_len: int, free: int) -> None:
    """Check that the token history of every running request fits.

    Parameters
    ----------
    max_num_seqs, max_model_len : int
    free : int
        Bytes that are left.

    Raises
    ------
    OutOfMemoryError
        They do not fit.
    """
    needed = max_num_seqs * max_model_len * _TOKEN_BYTES
    if needed > free:
        text = (
            f"the token ids of max_num_seqs={max_num_seqs} requests of max_model_len="
            f"{max_model_len} take {needed:,} bytes, and {free:,} are left; lower one of them"
        )
        raise OutOfMemoryError(text)
