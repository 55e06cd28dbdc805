"""What an engine says of itself: its model and limits, where vLLM's programs look for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plait.engine_args import EngineArgs
    from plait.engine_core import EngineCore
    from plait.scheduler import SchedulerConfig


@dataclass(frozen=True)
class ServedModel:
    """The model that is served.

    Attributes
    ----------
    model : str
        As it was asked for.
    tokenizer : str
    vocab_size, max_model_len : int
    runner_type : str
        "generate".
    """

    model: str
    tokenizer: str
    vocab_size: int
    max_model_len: int
    runner_type: str = "generate"

    @property
    def served_model_name(self) -> str:
        """The model's name, for labels."""
        return self.model

    def get_vocab_size(self) -> int:
        """Return how many tokens there are."""
        return self.vocab_size


@dataclass(frozen=True)
class CacheConfig:
    """The KV cache."""

    block_size: int
    num_gpu_blocks: int
    enable_prefix_caching: bool


@dataclass(frozen=True)
class LoRAConfig:
    """Caps on adapters; None = no cap."""

    max_loras: int | None
    max_lora_rank: int | None
    max_cpu_loras: int | None


@dataclass(frozen=True)
class ParallelConfig:
    """The devices: there is one."""

    world_size: int = 1
    world_size_across_dp: int = 1
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    data_parallel_rank: int = 0


@dataclass(frozen=True)
class EngineConfig:
    """All of it.

    Attributes
    ----------
    model_config : ServedModel
    cache_config : CacheConfig
    scheduler_config : SchedulerConfig
    parallel_config : ParallelConfig
    lora_config : LoRAConfig | None
        None: LoRA is not enabled.
    """

    model_config: ServedModel
    cache_config: CacheConfig
    scheduler_config: SchedulerConfig
    parallel_config: ParallelConfig
    lora_config: LoRAConfig | None


def engine_config(core: EngineCore, args: EngineArgs | None) -> EngineConfig:
    """Describe an engine.

    Parameters
    ----------
    core : EngineCore
    args : EngineArgs | None
        What it was made with; None for one that was put together by hand.
    """
    limits, pool, info = core.scheduler.config, core.scheduler.pool, core.info
    model = "" if args is None else args.model
    tokenizer = "" if args is None else args.tokenizer or args.model
    lora = None
    if args is not None and args.enable_lora:
        lora = LoRAConfig(args.max_loras, args.max_lora_rank, args.max_cpu_loras)
    return EngineConfig(
        ServedModel(model, tokenizer, info.vocab_size, info.max_model_len),
        CacheConfig(limits.block_size, pool.num_blocks, pool.enable_caching),
        limits,
        ParallelConfig(),
        lora,
    )
