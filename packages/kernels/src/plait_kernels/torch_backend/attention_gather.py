"""Memory into which the blocks of a row, or of several, are gathered."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class GatherBuffer:
    """One buffer for all rows and layers of a step.

    Attributes
    ----------
    blocks : Tensor [2, capacity, block_size, kv_heads, head_dim]
        Keys, then values. It is overwritten by every ``gather``. Fresh memory for each layer
        would cost more than the copy: large allocations come back from the system page by page.
    dtype : torch.dtype
        Of the tensors that ``gather`` returns.
    """

    blocks: torch.Tensor
    dtype: torch.dtype

    def gather(
        self, kv: torch.Tensor, indices: torch.Tensor, unused: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy blocks out of one layer of the cache.

        Parameters
        ----------
        kv : Tensor [num_blocks, 2, block_size, kv_heads, head_dim]
        indices : Tensor, int64 [n]
            The blocks to copy.
        unused : Tensor, int64 | None
            Of the copied tokens, those to overwrite with zeros.

        Returns
        -------
        tuple of two Tensors [n · block_size, kv_heads, head_dim]
            Keys and values, good until the next call.
        """
        gathered = self.blocks[:, : indices.shape[0]]
        torch.index_select(kv[:, 0], 0, indices, out=gathered[0])
        torch.index_select(kv[:, 1], 0, indices, out=gathered[1])
        tokens = gathered.flatten(1, 2)
        if unused is not None:
            tokens.index_fill_(1, unused, 0.0)
        keys, values = tokens.to(self.dtype)
        return keys, values
