"""Weights that are finite and whose results are not: refused before they are served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from plait_kernels.errors import AdapterError
from plait_lora.shown import shown

if TYPE_CHECKING:
    from plait_lora.peft_weights import SiteWeights

_LARGEST = torch.finfo(torch.float32).max
"""Kernels accumulate in float32, and scales are kept in it."""


def check_scale(scale: float, key: str, where: str) -> None:
    """Refuse a scale that float32 cannot hold; AdapterError."""
    if abs(scale) > _LARGEST:
        msg = (
            f"{where}: the scale of {shown(key)} (lora_alpha over the rank) is {scale:.3g}, more "
            f"than float32 holds ({_LARGEST:.3g}). Correct lora_alpha or alpha_pattern."
        )
        raise AdapterError(msg)


def check_results(weights: SiteWeights, where: str) -> None:
    """Refuse weights that overflow float32 for an input between -1 and 1.

    The largest results of A, of scale times A, and of both with B are the sums of absolute
    values. An adapter of any use is twenty orders of magnitude away.

    Raises
    ------
    AdapterError
    """
    # [rank]: the largest x · Aᵀ; [out]: the largest (x · Aᵀ) · Bᵀ
    shrunk = weights.a.abs().sum(1, dtype=torch.float64)
    expanded = weights.b.abs().double() @ shrunk
    scale = max(1.0, abs(weights.scale))
    largest = scale * max(float(shrunk.max()), float(expanded.max()))
    if largest > _LARGEST:
        msg = (
            f"{where}: lora_A and lora_B of {weights.site.name!r} give results up to "
            f"{largest:.3g} for inputs between -1 and 1, more than float32 holds "
            f"({_LARGEST:.3g}). Save the adapter from a healthy checkpoint."
        )
        raise AdapterError(msg)
