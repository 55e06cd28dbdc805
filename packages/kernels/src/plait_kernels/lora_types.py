"""What the ``lora`` op takes: tables of the adapters on the device, and a batch of tokens.

Kernels see these tables and nothing of how memory is handed out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TILE_ROWS = 8
"""Rank rows of a tile, unless the arena says otherwise."""

DENSE_ADD, DENSE_SCALE, DENSE_ROW = 0, 1, 2
"""Kinds of dense entry: a row added to y, a row that scales y, a replaced row of the weight."""


@dataclass(eq=False)
class LoraTable:
    """Where the weights of every resident mix lie in the arena.

    A slot is a mix. For every (slot, site) the table holds a list of *tiles* and a list of
    *dense entries*, as ranges of two flat lists, so ranks are ragged and a mix of several
    adapters is simply a longer list.

    A tile at byte offset ``o`` holds, in ``dtype`` and back to back, ``A`` [t, in_features] and
    ``Bᵀ`` [t, out_features], t = ``tile_rows``. Only its first ``tile_rank`` rows are meant; what
    is in the other rows is unspecified and must not be used.

    A dense entry of kind DENSE_ADD or DENSE_SCALE is one float32 row [out_features]; one of kind
    DENSE_ROW is a row of the base weight in ``dtype``: [out_features] of an ``embed`` site,
    [in_features] of any other.

    Attributes
    ----------
    arena : Tensor, uint8 [bytes]
        The memory of all adapters. Byte offsets below are multiples of 64.
    dtype : torch.dtype
        Of the tiles and replaced rows.
    tile_rows : int
        t.
    tile_start, tile_count : Tensor, int32 [slots, sites]
        The range of the tile list that belongs to (slot, site).
    tile_offset : Tensor, int64 [tile capacity]
        Byte offset of a tile in the arena.
    tile_rank : Tensor, int32 [tile capacity]
        Rows of the tile that are meant, 1..t.
    tile_scale : Tensor, float32 [tile capacity]
        Scale of the module (alpha/r or alpha/√r) times the weight of the adapter in the mix.
    dense_start, dense_count : Tensor, int32 [slots, sites]
        The range of the dense list that belongs to (slot, site).
    dense_kind : Tensor, int32 [dense capacity]
        DENSE_ADD, DENSE_SCALE or DENSE_ROW.
    dense_offset : Tensor, int64 [dense capacity]
        Byte offset of the row in the arena.
    dense_index : Tensor, int32 [dense capacity]
        Of DENSE_ROW: which row of the base weight it replaces. Unused otherwise.
    dense_weight : Tensor, float32 [dense capacity]
        Of DENSE_ADD: the weight of the adapter in the mix. 1 otherwise.
    max_tiles, max_dense : int
        No entry of ``tile_count`` and ``dense_count`` is larger: known on the host, for the size of
        scratch memory. A captured call may be replayed as long as neither has grown.
    version : int
        Raised by one whenever the tables or the arena are written; lets a backend keep views.
    """

    arena: torch.Tensor
    dtype: torch.dtype
    tile_rows: int
    tile_start: torch.Tensor
    tile_count: torch.Tensor
    tile_offset: torch.Tensor
    tile_rank: torch.Tensor
    tile_scale: torch.Tensor
    dense_start: torch.Tensor
    dense_count: torch.Tensor
    dense_kind: torch.Tensor
    dense_offset: torch.Tensor
    dense_index: torch.Tensor
    dense_weight: torch.Tensor
    max_tiles: int
    max_dense: int
    version: int = 0


@dataclass(frozen=True, eq=False)
class LoraBatch:
    """The tokens of a step (or the rows that get logits), and which mix each of them runs.

    ``order``, ``segment_*`` and ``num_segments`` are the work list: token indices grouped by
    slot, tokens of slot −1 left out. Its length is data on the device, so that one captured
    graph serves any batch; entries past the end are unspecified.

    Attributes
    ----------
    table : LoraTable
    token_slot : Tensor, int32 [tokens]
        Slot of each token's mix, −1 = base model only.
    token_weight : Tensor, float32 [tokens]
        Scale of the whole mix for this token (1 = as trained).
        Must be 1 where the mix has a DENSE_SCALE entry.
    order : Tensor, int32 [tokens]
        Token indices, those of one slot together and ascending.
    segment_slot : Tensor, int32 [max segments]
        Slot of each segment; every slot appears at most once.
    segment_start : Tensor, int32 [max segments + 1]
        Segment i is ``order[segment_start[i]:segment_start[i + 1]]``.
    num_segments : Tensor, int32 [1]
    """

    table: LoraTable
    token_slot: torch.Tensor
    token_weight: torch.Tensor
    order: torch.Tensor
    segment_slot: torch.Tensor
    segment_start: torch.Tensor
    num_segments: torch.Tensor
