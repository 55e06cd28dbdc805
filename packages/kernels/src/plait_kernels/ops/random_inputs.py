"""Random tensors for the input generators of the ops.

Everything is drawn on the CPU from a seed, so that every device gets the same numbers.
"""

from __future__ import annotations

import torch


def generator(seed: int) -> torch.Generator:
    """Return a CPU generator that starts at ``seed``."""
    return torch.Generator().manual_seed(seed)


def normal(
    source: torch.Generator,
    *shape: int,
    dtype: str = "float32",
    device: str = "cpu",
    padding: int = 0,
) -> torch.Tensor:
    """Draw a normal tensor of both signs.

    Parameters
    ----------
    source : torch.Generator
    *shape : int
        Shape of the result.
    dtype : str
        One of ``plait_kernels.config.DTYPES``.
    device : str
    padding : int
        Columns between the end of one row and the start of the next; they hold NaN. With
        padding the result is strided.

    Returns
    -------
    Tensor [*shape]
    """
    *leading, columns = shape
    wide = torch.full((*leading, columns + padding), torch.nan)
    wide[..., :columns] = torch.randn(*shape, generator=source)
    return wide.to(device=device, dtype=torch_dtype(dtype))[..., :columns]


def integers(
    source: torch.Generator, low: int, high: int, count: int, *, device: str = "cpu"
) -> torch.Tensor:
    """Draw ``count`` int64 numbers from ``low`` to ``high``, both included."""
    return torch.randint(low, high + 1, (count,), generator=source).to(device)


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of a name in ``plait_kernels.config.DTYPES``."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype
