"""How large a model will be, before anything is allocated for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from plait_kernels.errors import OutOfMemoryError
from plait_models.llama.weights import allocate

if TYPE_CHECKING:
    from plait_models.config import ModelConfig


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Tell the shape of every weight, by its name, and allocate none."""
    named = allocate(config, torch.float32, torch.device("meta")).named
    return {name: tuple(tensor.shape) for name, tensor in named.items()}


def check_memory(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
    """Check that a model can fit on a device at all.

    Raises
    ------
    OutOfMemoryError
        If the weights and the table of rotary embeddings take more than the device has.
    """
    named = allocate(config, dtype, torch.device("meta")).named
    weights = sum(tensor.numel() for tensor in named.values()) * dtype.itemsize
    table = config.max_position * config.rotary_dim * torch.float32.itemsize
    total = _memory_of(device)
    if weights + table > total:
        message = (
            f"the model does not fit on {device}: its weights take {weights} bytes and its rotary "
            f"embeddings {table}, and there are {total}. Use a smaller dtype, a smaller model or a "
            "larger device, or repair the sizes in the config"
        )
        raise OutOfMemoryError(message)


def _memory_of(device: torch.device) -> int:
    """Count the bytes of a device, others' included."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
