"""Weights of one adapter as they are handed to the arena."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class ModuleWeights:
    """What an adapter changes at one site: ``scale · B · A`` is added to the base weight.

    Attributes
    ----------
    a : Tensor [rank, in_features]
    b : Tensor [out_features, rank]
    scale : float
        alpha/r or alpha/√r. It is kept apart from B.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Rank of the module."""
        return self.a.shape[0]


@dataclass(frozen=True, eq=False)
class DenseWeights:
    """A dense entry of an adapter at one site.

    Attributes
    ----------
    site_index : int
    kind : int
        ``DENSE_ADD``, ``DENSE_SCALE`` or ``DENSE_ROW`` of ``plait_kernels.lora_types``.
    row : Tensor [out_features], or [in_features] of a DENSE_ROW that is not of an ``embed`` site
    index : int
        Of DENSE_ROW: which row of the base weight it replaces.
    """

    site_index: int
    kind: int
    row: torch.Tensor
    index: int = 0
