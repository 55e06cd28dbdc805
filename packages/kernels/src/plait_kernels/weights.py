"""Weight objects that the ``linear`` op takes. Quantised formats become further classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class DenseWeight:
    """A plain matrix.

    Attributes
    ----------
    weight : Tensor [out_features, in_features]
    bias : Tensor [out_features] | None
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    format = "dense"
