"""Attention of a row that has several queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from plait_kernels.torch_backend.attention_gather import GatherBuffer
    from plait_kernels.torch_backend.attention_settings import AttentionSettings

QUERY_CHUNK = 512
"""The most queries of a row that are attended in one call with an explicit mask.

So no more than the mask [QUERY_CHUNK, KV length] is ever materialised. Without KV from earlier
steps there is no mask, and torch's kernel works block by block.
"""


@dataclass(frozen=True, eq=False)
class PrefillRow:
    """One row, its queries the last tokens of its KV.

    Attributes
    ----------
    start, stop : int
        The row's tokens.
    kv_length : int
    blocks : Tensor, int64 [blocks of the row]
    mask : Tensor [chunk, max KV length] | None
        See ``causal_mask``.
    settings : AttentionSettings
    """

    start: int
    stop: int
    kv_length: int
    blocks: torch.Tensor
    mask: torch.Tensor | None
    settings: AttentionSettings

    @property
    def tokens(self) -> slice:
        """Tokens of the row."""
        return slice(self.start, self.stop)

    def attend(self, q: torch.Tensor, kv: torch.Tensor, buffer: GatherBuffer) -> torch.Tensor:
        """Attend with the row's queries, [queries, heads, d] to the same shape."""
        # [1, kv_heads, kv_length, d]
        keys, values = (
            tokens[: self.kv_length].transpose(0, 1).unsqueeze(0)
            for tokens in buffer.gather(kv, self.blocks)
        )
        queries = q.transpose(0, 1).unsqueeze(0).to(self.settings.dtype)
        if q.shape[0] == self.kv_length:
            out = F.scaled_dot_product_attention(
                queries, keys, values, is_causal=True, scale=self.settings.scale, enable_gqa=True
            )
        else:
            out = self._attend_in_chunks(queries, keys, values)
        return out.squeeze(0).transpose(0, 1).to(q.dtype).contiguous()

    def _attend_in_chunks(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        assert self.mask is not None, "a row with earlier KV has a mask"
        # Memory in the order [queries, heads, d], as the caller wants it.
        out = torch.empty_like(q.transpose(1, 2), memory_format=torch.contiguous_format)
        earlier = self.kv_length - q.shape[2]
        chunk, width = self.mask.shape
        for first in range(0, q.shape[2], chunk):
            last = min(first + chunk, q.shape[2])
            seen = earlier + last
            mask = self.mask[chunk - (last - first) :, width - seen :]
            out[:, first:last] = F.scaled_dot_product_attention(
                q[:, :, first:last],
                keys[:, :, :seen],
                values[:, :, :seen],
                # Some CUDA kernels take no mask whose rows lie at odd distances.
                attn_mask=mask if mask.device.type == "cpu" else mask.contiguous(),
                scale=self.settings.scale,
                enable_gqa=True,
            ).transpose(1, 2)
        return out.transpose(1, 2)


def causal_mask(
    spans: list[tuple[int, int, int]], dtype: torch.dtype, device: torch.device
) -> torch.Tensor | None:
    """Make the one mask of which every chunk of every row uses the lower right corner.

    Parameters
    ----------
    spans : list[tuple[int, int, int]]
        First token, end of the tokens and KV length of each row.
    dtype : torch.dtype
    device : torch.device

    Returns
    -------
    Tensor [min(QUERY_CHUNK, most queries), greatest KV length] | None
        0 where query i of n may see key j of m (j ≤ m - n + i), else -∞. None if no row has KV
        from earlier steps.
    """
    continued = [(stop - start, length) for start, stop, length in spans if stop - start < length]
    if not continued:
        return None
    rows = min(QUERY_CHUNK, max(queries for queries, _ in continued))
    columns = max(length for _, length in continued)
    mask = torch.full((rows, columns), -torch.inf, dtype=dtype, device=device)
    return mask.triu_(columns - rows + 1)
