"""Adapters of random values, as files of PEFT's, made as fast as they can be written."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from plait.bench.linears import LINEARS, adapter_parameters, linear_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plait_models.config import ModelConfig

STD = 0.02
_SHIFT = 4099
_MEMORY_DISK = Path("/dev/shm")
_HEADROOM = 1.1


def parent_folder(size: int, memory_disk: Path = _MEMORY_DISK) -> str | None:
    """Return where to put files of ``size`` bytes: in memory if there is room; None = no matter."""
    if memory_disk.is_dir() and shutil.disk_usage(memory_disk).free > _HEADROOM * size:
        return str(memory_disk)
    return None


def write_adapters(
    config: ModelConfig,
    folder: Path,
    *,
    ranks: Sequence[int],
    targets: Sequence[str],
    seed: int,
) -> list[str]:
    """Write adapters in bfloat16; no two are alike.

    Parameters
    ----------
    config : ModelConfig
        Of the base model.
    folder : Path
        Gets a directory an adapter.
    ranks : Sequence[int]
        Rank of each adapter.
    targets : Sequence[str]
        Of ``LINEARS``.
    seed : int

    Returns
    -------
    list[str]
        The directories.
    """
    if not ranks:
        return []
    most = adapter_parameters(config, targets, max(ranks))
    # Drawing all values anew would take minutes: every adapter begins elsewhere in the same ones.
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(most + _SHIFT * len(ranks), generator=generator).mul_(STD).bfloat16()
    paths = []
    for number, rank in enumerate(ranks):
        path = folder / f"adapter-{number}"
        path.mkdir(parents=True)
        tensors = {}
        start = _SHIFT * number
        for name, shape in _tensors(config, rank, targets):
            end = start + math.prod(shape)
            tensors[name] = values[start:end].view(shape)
            start = end
        save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
        written = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": 2 * rank,
            "target_modules": list(targets),
            "bias": "none",
        }
        (path / "adapter_config.json").write_text(json.dumps(written), encoding="utf-8")
        paths.append(str(path))
    return paths


def _tensors(
    config: ModelConfig, rank: int, targets: Sequence[str]
) -> Iterator[tuple[str, tuple[int, int]]]:
    sizes = linear_sizes(config)
    for layer in range(config.layers):
        for target in targets:
            inputs, outputs = sizes[target]
            module = f"base_model.model.model.layers.{layer}.{LINEARS[target]}.{target}"
            yield f"{module}.lora_A.weight", (rank, inputs)
            yield f"{module}.lora_B.weight", (outputs, rank)


def make_folder(prefix: str, size: int) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder for files of ``size`` bytes."""
    return tempfile.TemporaryDirectory(prefix=prefix, dir=parent_folder(size))
