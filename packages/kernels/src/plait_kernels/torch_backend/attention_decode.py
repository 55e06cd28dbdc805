"""Attention of the rows that have one query each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from plait_kernels.torch_backend.attention_gather import GatherBuffer
    from plait_kernels.torch_backend.attention_settings import AttentionSettings

MAX_PADDING = 512
"""The most KV tokens of padding in one group: about what one more call costs."""

MAX_GROUP_TOKENS = 32768
"""The most KV tokens, padding included, that one call gathers, unless a single row has more."""


@dataclass(frozen=True, eq=False)
class DecodeGroup:
    """Rows of similar length, padded to the blocks of the longest and attended in one call.

    Attributes
    ----------
    tokens : slice | Tensor, int64 [rows]
        Tokens of the rows.
    rows : int
    blocks : Tensor, int64 [rows · width]
        Each row's blocks, all of them its own.
    unused : Tensor, int64 [unused] | None
        Of the gathered KV tokens, those that no row has written. They may hold NaN, which no mask
        hides: they are overwritten with zeros.
    mask : Tensor [rows, 1, 1, width · block_size] | None
        0, and -∞ past a row's length.
    settings : AttentionSettings
    """

    tokens: slice | torch.Tensor
    rows: int
    blocks: torch.Tensor
    unused: torch.Tensor | None
    mask: torch.Tensor | None
    settings: AttentionSettings

    def attend(self, q: torch.Tensor, kv: torch.Tensor, buffer: GatherBuffer) -> torch.Tensor:
        """Attend with one query a row, [rows, heads, d] to the same shape."""
        heads, head_dim = q.shape[1:]
        kv_heads = kv.shape[3]
        # The query heads of one KV head take the place of its queries: nothing is repeated.
        queries = q.reshape(self.rows, kv_heads, heads // kv_heads, head_dim)
        keys, values = buffer.gather(kv, self.blocks, self.unused)
        shape = (self.rows, -1, kv_heads, head_dim)
        out = F.scaled_dot_product_attention(
            queries.to(self.settings.dtype),
            keys.view(shape).transpose(1, 2),
            values.view(shape).transpose(1, 2),
            attn_mask=self.mask,
            scale=self.settings.scale,
        )
        return out.reshape(q.shape).to(q.dtype)


def group_decode_rows(
    rows: list[int],
    starts: list[int],
    lengths: list[int],
    block_table: torch.Tensor,
    settings: AttentionSettings,
) -> list[DecodeGroup]:
    """Sort rows into groups whose padding costs less than a call would.

    Parameters
    ----------
    rows : list[int]
        The rows that have one query.
    starts, lengths : list[int]
        Query starts and KV lengths of all rows of the batch.
    block_table : Tensor, int32 [rows of the batch, max blocks]
    settings : AttentionSettings
    """
    return [
        _make_group(group, starts, lengths, block_table, settings)
        for group in _split(rows, lengths, settings)
    ]


def _split(rows: list[int], lengths: list[int], settings: AttentionSettings) -> list[list[int]]:
    groups: list[list[int]] = []
    width = padding = 0
    for row in sorted(rows, key=lambda row: -lengths[row]):
        tokens = settings.blocks_of(lengths[row]) * settings.block_size
        padding += width - tokens
        too_many = groups and (len(groups[-1]) + 1) * width > MAX_GROUP_TOKENS
        if not groups or padding > MAX_PADDING or too_many:
            groups.append([])
            width, padding = tokens, 0
        groups[-1].append(row)
    # In the order of the batch, a group's queries usually lie side by side.
    return [sorted(group) for group in groups]


def _make_group(
    rows: list[int],
    starts: list[int],
    lengths: list[int],
    block_table: torch.Tensor,
    settings: AttentionSettings,
) -> DecodeGroup:
    device, block_size = block_table.device, settings.block_size
    length = torch.tensor([lengths[row] for row in rows], device=device).unsqueeze(1)
    width = settings.blocks_of(max(lengths[row] for row in rows))
    table = block_table[torch.tensor(rows, device=device), :width].long()
    # What the table says past a row's end is unspecified; the row's first block is its own.
    first_token = torch.arange(0, width * block_size, block_size, device=device)
    own = first_token < length
    written = torch.where(own, length - first_token, length).unsqueeze(2)
    # [rows, width, block_size]
    unwritten = torch.arange(block_size, device=device) >= written
    unused = unwritten.flatten().nonzero().squeeze(1)
    past_end = torch.arange(width * block_size, device=device) >= length
    mask = torch.zeros(past_end.shape, dtype=settings.dtype, device=device)
    mask.masked_fill_(past_end, -torch.inf)
    return DecodeGroup(
        tokens=_as_slice([starts[row] for row in rows], device),
        rows=len(rows),
        blocks=torch.where(own, table, table[:, :1]).flatten(),
        unused=unused if unused.shape[0] else None,
        mask=mask[:, None, None] if past_end.any() else None,
        settings=settings,
    )


def _as_slice(tokens: list[int], device: torch.device) -> slice | torch.Tensor:
    if tokens == list(range(tokens[0], tokens[0] + len(tokens))):
        return slice(tokens[0], tokens[0] + len(tokens))
    return torch.tensor(tokens, device=device)
