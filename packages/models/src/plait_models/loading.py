"""``load``: from a path to a model that runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import torch

from plait_kernels.config import BUCKETS, DTYPES, OpConfig
from plait_kernels.errors import ModelError
from plait_kernels.table import KernelTable
from plait_models.llama.calls import op_configs
from plait_models.llama.model import LlamaModel
from plait_models.llama.weights import allocate, tied_names
from plait_models.reading import find_files, read_hf_config
from plait_models.sizes import check_memory, weight_shapes
from plait_models.weights import copy_weights, fill_with_dummies, match_weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from plait_models.config import ModelConfig
    from plait_models.files.gguf import GgufFile
    from plait_models.files.source import WeightSource
    from plait_models.model import Model
    from plait_models.reading import ModelFiles

BuildKernels: TypeAlias = Callable[[Sequence[OpConfig]], KernelTable]
"""Turns what a model calls into a table of kernels; the caller may add ops of its own."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with bytes read and bytes in all."""

DEFAULT_MAX_TOKENS = {"decode": 256, "prefill": 8192}


def load(
    path: str | PathLike[str],
    *,
    build_kernels: BuildKernels,
    dtype: str = "auto",
    device: str | torch.device = "cpu",
    load_format: str = "auto",
    seed: int = 0,
    max_tokens: Mapping[str, int] | tuple[int, int] | None = None,
    block_size: int = 16,
    max_positions: int | None = None,
    progress: Progress | None = None,
) -> Model:
    """Load a model.

    Parameters
    ----------
    path : str | PathLike
        A Hugging Face directory, a GGUF file, or a directory that holds one GGUF file.
    build_kernels : Callable[[Sequence[OpConfig]], KernelTable]
        Called once, before any weight is read, with every op that the model calls.
    dtype : str
        Of weights, activations and KV cache: ``"float32"``, ``"bfloat16"``, ``"float16"``, or
        ``"auto"``: that of the config; of a GGUF file float32 on a CPU and bfloat16 elsewhere.
    device : str | torch.device
    load_format : str
        ``"safetensors"``, ``"gguf"``, ``"dummy"`` (random weights; takes the config alone), or
        ``"auto"``: what is there.
    seed : int
        Of the random weights.
    max_tokens : Mapping[str, int] | tuple[int, int] | None
        The most tokens of one step in each token bucket, by name or as (decode, prefill). None
        means ``{"decode": 256, "prefill": 8192}``.
    block_size : int
        Tokens of a KV block.
    max_positions : int | None
        The longest sequence that will run, if it is shorter than what the model can do; tables of
        positions then are that long.
    progress : Callable[[int, int], None] | None
        Called with bytes read and bytes in all, first with 0, after each tensor.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        If there is no model, it is damaged, or cannot be computed exactly.
    KernelError
        Whatever ``build_kernels`` raises.
    OutOfMemoryError
        If the device has not the memory for the weights. Sizes are checked before anything is
        allocated.
    """
    device = torch.device(device)
    files = find_files(path, load_format)
    gguf = _open_gguf(files) if files.format == "gguf" else None
    config = read_hf_config(files.root) if gguf is None else gguf.config()
    dtype = _resolve_dtype(dtype, config, device)
    if max_positions is not None:
        config = replace(config, max_position=min(config.max_position, max_positions))
    check_memory(config, getattr(torch, dtype), device)
    table = build_kernels(op_configs(config, dtype, block_size, _by_bucket(max_tokens)))
    report = progress or _report_nothing
    if load_format == "dummy":
        weights = allocate(config, getattr(torch, dtype), device)
        fill_with_dummies(weights.named, seed=seed, report=report)
    else:
        tied = tied_names(config)
        with _open_weights(files, gguf, config) as source:
            # Before memory is allocated for what may not be in the file.
            match_weights(source, weight_shapes(config), tied)
            weights = allocate(config, getattr(torch, dtype), device)
            copy_weights(source, weights.named, tied=tied, report=report)
    return LlamaModel(config, weights, table, block_size)


def _open_gguf(files: ModelFiles) -> GgufFile:
    # The package gguf is needed for GGUF files alone.
    from plait_models.files.gguf import GgufFile

    return GgufFile(files.root)


@contextmanager
def _open_weights(
    files: ModelFiles, gguf: GgufFile | None, config: ModelConfig
) -> Iterator[WeightSource]:
    if gguf is not None:
        yield gguf.weights(config)
        return
    from plait_models.files.safetensors import SafetensorsWeights, weight_files

    with SafetensorsWeights(str(files.root), weight_files(files.root)) as source:
        yield source


def _resolve_dtype(dtype: str, config: ModelConfig, device: torch.device) -> str:
    if dtype == "auto":
        on_accelerator = device.type != "cpu"
        return "bfloat16" if config.file_format == "gguf" and on_accelerator else config.dtype
    if dtype not in DTYPES:
        message = (
            f"dtype is {dtype!r}; allowed: auto, {', '.join(DTYPES)}. Use 'auto' to take that of "
            "the model's files"
        )
        raise ModelError(message)
    return dtype


def _by_bucket(max_tokens: Mapping[str, int] | tuple[int, int] | None) -> Mapping[str, int]:
    if max_tokens is None:
        return DEFAULT_MAX_TOKENS
    if not isinstance(max_tokens, Mapping):
        max_tokens = dict(zip(BUCKETS, max_tokens, strict=True))
    if set(max_tokens) != set(BUCKETS) or min(max_tokens.values()) < 1:
        message = (
            f"max_tokens is {dict(max_tokens)}; needed: a number of at least 1 for each of "
            f"{', '.join(BUCKETS)}. Give both"
        )
        raise ModelError(message)
    return max_tokens


def _report_nothing(done: int, total: int) -> None:
    """Stand in for a progress callback that was not given."""
