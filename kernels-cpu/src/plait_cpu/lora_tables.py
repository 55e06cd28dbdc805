"""What the library reads of a ``LoraTable`` and of a ``LoraBatch``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from plait_cpu.library import Segments, Tables

if TYPE_CHECKING:
    import numpy.typing as npt

    from plait_kernels.lora_types import LoraBatch, LoraTable


class TableView:
    """A table as it was when it was last written.

    Attributes
    ----------
    dtype : torch.dtype
        Of the tiles.
    rank_sum : ndarray, int32 [slots, sites]
        Rank of all tiles of (slot, site).
    struct : Tables
    """

    def __init__(self, table: LoraTable) -> None:
        self._table, self._version, self._arena = table, table.version, table.arena
        self.dtype = table.dtype
        before = np.concatenate([[0], np.cumsum(table.tile_rank.numpy(), dtype=np.int64)])
        start = table.tile_start.numpy().astype(np.int64)
        count = table.tile_count.numpy()
        # Where a count is 0, the start may be anything.
        start = np.where(count > 0, start, 0)
        self.rank_sum = np.ascontiguousarray(before[start + count] - before[start], np.int32)
        self._widths: dict[int, int] = {}
        self.struct = Tables(
            table.arena.data_ptr(),
            table.tile_start.data_ptr(),
            table.tile_count.data_ptr(),
            table.tile_offset.data_ptr(),
            table.tile_rank.data_ptr(),
            table.tile_scale.data_ptr(),
            self.rank_sum.ctypes.data,
            table.tile_start.shape[1],
            table.tile_rows,
        )

    def is_of(self, table: LoraTable) -> bool:
        """Whether nothing was written since."""
        return (
            table is self._table and table.version == self._version and table.arena is self._arena
        )

    def width(self, site_index: npt.NDArray[np.int32], key: int) -> int:
        """Return the most rank rows that a slot has at some sites together.

        Parameters
        ----------
        site_index : ndarray, int32 [sites]
        key : int
            Names the sites in what is remembered.
        """
        known = self._widths.get(key)
        if known is None:
            known = self._widths[key] = int(self.rank_sum[:, site_index].sum(axis=1).max())
        return known


class BatchView:
    """The work list of a batch: one part for the library, one for the backend ``torch``.

    Attributes
    ----------
    table : TableView
    dense : LoraBatch | None
        The tokens whose mix has dense entries; None where there are none.
    struct : Segments | None
        The others; None where there are none.
    """

    def __init__(self, batch: LoraBatch, table: TableView) -> None:
        self._batch = batch
        self.table = table
        self.dense: LoraBatch | None = None
        count = int(batch.num_segments)
        slots = batch.segment_slot[:count].numpy()
        is_dense = batch.table.dense_count.numpy()[slots].any(axis=1)
        # The struct holds addresses: what they point to must live as long.
        self._arrays = (batch.order, batch.segment_start, batch.segment_slot)
        if is_dense.any():
            self.dense = _part(batch, is_dense)
            plain = _part(batch, ~is_dense)
            self._arrays = (plain.order, plain.segment_start, plain.segment_slot)
            count = int(plain.num_segments)
        pointers = (array.data_ptr() for array in self._arrays)
        self.struct = Segments(*pointers, count) if count or self.dense is None else None

    def is_of(self, batch: LoraBatch) -> bool:
        """Whether this is the view of a batch whose table was not written since."""
        return batch is self._batch and self.table.is_of(batch.table)


def _part(batch: LoraBatch, is_in: npt.NDArray[np.bool_]) -> LoraBatch:
    """Return a batch with some of the segments; the tokens of the others run the base model."""
    count = len(is_in)
    start = batch.segment_start[: count + 1].numpy()
    order = batch.order[: start[-1] if count else 0].numpy()
    lengths = np.diff(start)
    order_in = order[np.repeat(is_in, lengths)]
    slot_in = batch.segment_slot[:count].numpy()[is_in]
    token_slot = torch.full_like(batch.token_slot, -1)
    token_slot.numpy()[order_in] = np.repeat(slot_in, lengths[is_in])
    start_in = np.concatenate([[0], np.cumsum(lengths[is_in])]).astype(np.int32)
    return replace(
        batch,
        token_slot=token_slot,
        order=torch.from_numpy(order_in),
        segment_slot=torch.from_numpy(slot_in),
        segment_start=torch.from_numpy(start_in),
        num_segments=torch.tensor([len(slot_in)], dtype=torch.int32),
    )
