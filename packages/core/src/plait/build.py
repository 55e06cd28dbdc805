"""Builds an EngineCore from EngineArgs: model, kernels, memory, adapters, scheduler, runner."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import psutil
import torch

import plait_models
from plait.activations import activation_bytes
from plait.adapter_device import AdapterDevice
from plait.adapter_library import AdapterLibrary
from plait.block_pool import BlockPool
from plait.engine_args import another_kv_dtype
from plait.engine_core import CoreInfo, EngineCore
from plait.hub import Hub
from plait.memory import DeviceMemory, HostMemory, Memory, MemoryPlan, check_rows, plan_memory
from plait.padded_steps import GRAPH_BYTES, PaddedSteps
from plait.progress import LoadingProgress
from plait.rows import Rows
from plait.runner import Runner
from plait.scheduler import Scheduler, SchedulerConfig
from plait.step_sizes import SiteSet, StepSize, common_site_sets, decode_sizes, mixed_sizes
from plait_kernels.config import BUCKETS
from plait_kernels.errors import InputError
from plait_kernels.loader import load_backends
from plait_kernels.lora_types import TILE_ROWS
from plait_kernels.probe import device_of
from plait_kernels.request import KernelRequest
from plait_kernels.selection import select
from plait_kernels.sites import SITE_GROUPS
from plait_lora.arena import LoraArena
from plait_lora.catalog import AdapterCatalog
from plait_lora.store import AdapterStore
from plait_models.reading import find_files
from plait_sampling.sampler import SAMPLING_OPS, Sampler, sampling_configs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plait.engine_args import EngineArgs
    from plait_kernels.config import OpConfig
    from plait_kernels.sites import LoraSite
    from plait_kernels.table import KernelTable
    from plait_models.config import ModelConfig
    from plait_models.model import Model

logger = logging.getLogger(__name__)

_SCRATCH_RANK = 128
"""On a GPU scratch memory has room for mixes of this rank from the start, or max_lora_rank."""

SERVED_GROUPS = frozenset(SITE_GROUPS) - {"embed"}
"""Site groups where adapters are served; an adapter on another one is refused by name."""


def build_core(
    args: EngineArgs, *, wrap_table: Callable[[KernelTable], KernelTable] | None = None
) -> EngineCore:
    """Load the model and put the engine core together.

    Parameters
    ----------
    args : EngineArgs
    wrap_table : Callable[[KernelTable], KernelTable] | None
        Is given the chosen kernels; the engine is bound to those it returns. For tools that
        observe kernels.

    Raises
    ------
    ModelError, KernelError, OutOfMemoryError, InputError
        As ``LLMEngine.from_engine_args`` says.
    """
    device = _device(args.device)
    config = plait_models.read_config(args.model, args.load_format)
    max_model_len = _max_model_len(args, config)
    max_num_seqs = min(args.max_num_seqs, args.max_num_batched_tokens)
    check_rows(max_num_seqs, max_model_len, _free_bytes(device))
    model, table = _load_model(args, device, config.vocab_size, wrap_table)
    _check_kv_dtype(args, model)
    rows = Rows(
        max_num_seqs=max_num_seqs,
        max_model_len=max_model_len,
        block_size=args.block_size,
        device=device,
    )
    # Of what is left when rows and weights are there.
    memory = _plan_memory(args, model, table, max_model_len)
    if memory.max_model_len < max_model_len:
        logger.info("max_model_len: %d tokens fit", memory.max_model_len)
        max_model_len = memory.max_model_len
    library, adapter_device = _adapters(args, model, memory, max_num_seqs)
    store = library.store if library else AdapterStore(0, 0)
    scheduler = Scheduler(
        SchedulerConfig(max_num_seqs, args.max_num_batched_tokens, max_model_len, args.block_size),
        BlockPool(memory.num_blocks, enable_caching=args.enable_prefix_caching),
        store,
    )
    sampler = Sampler.from_table(table, model.info.vocab_size)
    kv = _kv_cache(model, memory.num_blocks, args.block_size)
    info = CoreInfo(model.info.vocab_size, max_model_len)
    if device.type != "cuda":
        return EngineCore(
            scheduler, Runner(model, rows, sampler, kv, adapter_device), library, info
        )
    capture = not args.enforce_eager and _tell_what_is_not_captured(table)
    padded_steps = PaddedSteps(
        model,
        rows,
        kv,
        adapter_device,
        sizes=_step_sizes(args, table),
        site_sets=_site_sets(args, model),
        capture=capture,
    )
    if capture:
        padded_steps.warm_up()
        padded_steps.compile(StepSize(args.max_num_batched_tokens, max_num_seqs, is_decode=False))
    runner = Runner(model, rows, sampler, kv, adapter_device, padded_steps)
    return EngineCore(scheduler, runner, library, info, steps_ahead=1)


def _step_sizes(args: EngineArgs, table: KernelTable) -> tuple[StepSize, ...]:
    """List the sizes that steps are padded to on a GPU."""
    max_tokens = args.max_num_batched_tokens
    max_rows = min(args.max_num_seqs, max_tokens)
    mixed = () if _not_graph_safe(table, "prefill") else mixed_sizes(max_rows, max_tokens)
    return decode_sizes(max_rows) + mixed


def _site_sets(args: EngineArgs, model: Model) -> tuple[SiteSet, ...]:
    if not args.enable_lora:
        return (frozenset(),)
    return common_site_sets(model.sites, args.lora_target_modules)


def _not_graph_safe(table: KernelTable, bucket: str) -> set[str]:
    """Name the kernels because of which steps of a bucket cannot be captured."""
    return {
        f"{choice.chosen.backend.name}'s {config.op}"
        for config, choice in table.choices.items()
        if config.bucket == bucket
        and config.op not in SAMPLING_OPS
        and not choice.chosen.kernel.graph_safe
    }


def _tell_what_is_not_captured(table: KernelTable) -> bool:
    """Say whether anything can be captured: decode steps; warn of steps that cannot be."""
    unsafe = {bucket: _not_graph_safe(table, bucket) for bucket in BUCKETS}
    for bucket, kernels in unsafe.items():
        if kernels:
            logger.warning(
                "%s steps are not captured as CUDA graphs and will be slow: %s cannot be",
                bucket,
                ", ".join(sorted(kernels)),
            )
    return not unsafe["decode"]


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif name == "cuda" and not torch.cuda.is_available():
        text = "device='cuda' was asked for, but torch sees no GPU here; use device='cpu'"
        raise InputError(text)
    return torch.device(name)


def _max_model_len(args: EngineArgs, config: ModelConfig) -> int:
    limit = config.max_position
    if args.max_model_len == -1:
        return limit  # What does not fit of it is cut when the memory is known.
    if args.max_model_len is not None and args.max_model_len > limit:
        text = (
            f"max_model_len={args.max_model_len} is more than the model's {limit} positions "
            f"(from {config.position_limit}); "
            f"use at most {limit}"
        )
        raise InputError(text)
    return args.max_model_len or limit


def _load_model(
    args: EngineArgs,
    device: torch.device,
    vocab_size: int,
    wrap_table: Callable[[KernelTable], KernelTable] | None,
) -> tuple[Model, KernelTable]:
    max_rows = min(args.max_num_seqs, args.max_num_batched_tokens)
    request = KernelRequest.resolve(args.kernels, os.environ.get("PLAIT_KERNELS"))
    tables: list[KernelTable] = []

    def build_kernels(configs: Sequence[OpConfig]) -> KernelTable:
        wanted = [*configs, *sampling_configs(vocab_size, max_rows)]
        table = select(wanted, load_backends(), request, device_of(device))
        tables.append(wrap_table(table) if wrap_table else table)
        return tables[0]

    with LoadingProgress() as progress:
        model = plait_models.load(
            args.model,
            build_kernels=build_kernels,
            dtype=args.dtype,
            device=device,
            load_format=args.load_format,
            seed=args.seed,
            max_tokens=(max_rows, args.max_num_batched_tokens),
            block_size=args.block_size,
            max_positions=args.max_model_len if (args.max_model_len or 0) > 0 else None,
            progress=progress,
        )
    return model, tables[0]


def _plan_memory(
    args: EngineArgs, model: Model, table: KernelTable, max_model_len: int
) -> MemoryPlan:
    info = model.info
    token_bytes = info.layers * 2 * info.kv_heads * info.head_dim * info.kv_dtype.itemsize
    return plan_memory(
        _memory(args, model, table),
        block_bytes=args.block_size * token_bytes,
        block_size=args.block_size,
        max_model_len=max_model_len,
        max_num_seqs=args.max_num_seqs,
        kv_cache_memory_bytes=args.kv_cache_memory_bytes,
        num_blocks=args.num_gpu_blocks_override,
        lora_memory_bytes=args.lora_memory_bytes,
        enable_lora=args.enable_lora,
        shorten=args.max_model_len == -1,
    )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _check_kv_dtype(args: EngineArgs, model: Model) -> None:
    dtype = str(model.info.kv_dtype).removeprefix("torch.")
    if args.kv_cache_dtype not in ("auto", dtype):
        raise another_kv_dtype(args.kv_cache_dtype, dtype)


def _memory(args: EngineArgs, model: Model, table: KernelTable) -> Memory:
    device = model.info.device
    if device.type != "cuda":
        return HostMemory(int(psutil.virtual_memory().available))
    sizes = _step_sizes(args, table)
    max_rows = max(size.rows for size in sizes)
    activations = activation_bytes(model, args.max_num_batched_tokens, max_rows)
    # Of padded steps, which write them here.
    logits = max_rows * model.info.vocab_size * torch.float32.itemsize
    graphs = logits
    if not args.enforce_eager:
        graphs += activation_bytes(model, max(size.tokens for size in sizes), max_rows)
        graphs += len(sizes) * len(_site_sets(args, model)) * GRAPH_BYTES
    # What that left in torch's cache is free.
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return DeviceMemory(total, args.gpu_memory_utilization, total - free, activations, graphs)


def _kv_cache(model: Model, num_blocks: int, block_size: int) -> torch.Tensor:
    info = model.info
    shape = (num_blocks, info.layers, 2, block_size, info.kv_heads, info.head_dim)
    return torch.empty(shape, dtype=info.kv_dtype, device=info.device)


def _adapters(
    args: EngineArgs, model: Model, memory: MemoryPlan, max_num_seqs: int
) -> tuple[AdapterLibrary | None, AdapterDevice | None]:
    if not args.enable_lora:
        return None, None
    dtype = model.info.dtype if args.lora_dtype == "auto" else getattr(torch, args.lora_dtype)
    # Matrix multiplication on a CPU likes tiles of one row, which make a module one matrix.
    on_gpu = model.info.device.type == "cuda"
    tile_rows = TILE_ROWS if on_gpu else 1
    catalog = AdapterCatalog(
        model.sites,
        dtype=dtype,
        max_lora_rank=args.max_lora_rank,
        max_cpu_loras=args.max_cpu_loras,
        served_groups=SERVED_GROUPS,
        chunk_bytes=memory.chunk_bytes,
        num_chunks=memory.num_chunks,
        tile_rows=tile_rows,
        base_weight=model.base_weight,
        origin=_origin(args),
        target_modules=args.lora_target_modules,
        locate=Hub(args.hf_token, args.download_dir).adapter,
    )
    # Every running request may have a mix of its own.
    store = AdapterStore(memory.num_chunks, num_slots=max_num_seqs, max_loras=args.max_loras)
    arena = LoraArena(
        memory.num_chunks,
        memory.chunk_bytes,
        max_num_seqs,
        model.sites,
        dtype,
        model.info.device,
        tile_rows,
        # Captured steps hold on to these lists: room for a mix of rank 64 on every site and row.
        list_capacity=max_num_seqs * len(model.sites) * 64 // TILE_ROWS if on_gpu else 1024,
        max_tiles=-(-(args.max_lora_rank or _SCRATCH_RANK) // tile_rows) if on_gpu else 0,
    )
    return AdapterLibrary(catalog, store), AdapterDevice(arena, catalog)


def _origin(args: EngineArgs) -> Callable[[LoraSite, torch.Tensor], bool] | None:
    """Return what tells copies from before a GGUF file was quantised."""
    files = find_files(args.model, args.load_format)
    if files.format != "gguf" or args.load_format == "dummy":
        return None
    # The package gguf is needed for GGUF files alone.
    from plait_models.files.gguf_origins import is_origin

    return lambda site, weight: is_origin(files.root, site.group, weight)
