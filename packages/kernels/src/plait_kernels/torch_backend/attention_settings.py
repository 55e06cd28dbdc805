"""What every call of the attention of one model has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AttentionSettings:
    """Static facts of the computation.

    Attributes
    ----------
    block_size : int
        Tokens in a block.
    dtype : torch.dtype
        In which scores are computed; q and kv may have another.
    scale : float | None
        Of the scores; None = 1/√head_dim.
    """

    block_size: int
    dtype: torch.dtype
    scale: float | None

    def blocks_of(self, length: int) -> int:
        """Return how many blocks a row of ``length`` tokens has."""
        return -(-length // self.block_size)
