"""What the library reads of a ``LoraTable`` and of a ``LoraBatch``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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
    """The work list of a batch.

    Attributes
    ----------
    table : TableView
    has_dense : bool
        Whether a mix in the batch has dense entries.
    struct : Segments
    """

    def __init__(self, batch: LoraBatch, table: TableView) -> None:
        self._batch = batch
        self.table = table
        count = int(batch.num_segments)
        slots = batch.segment_slot[:count].numpy()
        self.has_dense = bool(batch.table.dense_count.numpy()[slots].any())
        self.struct = Segments(
            batch.order.data_ptr(),
            batch.segment_start.data_ptr(),
            batch.segment_slot.data_ptr(),
            count,
        )

    def is_of(self, batch: LoraBatch) -> bool:
        """Whether this is the view of a batch whose table was not written since."""
        return batch is self._batch and self.table.is_of(batch.table)
