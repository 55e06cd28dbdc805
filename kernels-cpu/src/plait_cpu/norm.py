"""The norm of both norm ops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from plait_cpu.library import DTYPES, load_library

if TYPE_CHECKING:
    from collections.abc import Callable


def make_norm() -> Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor, float], torch.Tensor]:
    """Make ``f(x, residual, weight, eps)``: the norm of x, or of the residual after ``+= x``."""
    run = load_library().plait_norm

    def norm(
        x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> torch.Tensor:
        y = torch.empty(x.shape, dtype=x.dtype)
        tokens, hidden = x.shape
        run(
            DTYPES[x.dtype],
            x.data_ptr(),
            x.stride(0),
            None if residual is None else residual.data_ptr(),
            0 if residual is None else residual.stride(0),
            weight.data_ptr(),
            y.data_ptr(),
            tokens,
            hidden,
            eps,
            torch.get_num_threads(),
        )
        return y

    return norm
