"""What the ``torch`` backend's ``lora`` knows about the slots of a table, on the host."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from plait_kernels.lora_types import LoraTable
    from plait_kernels.sites import LoraSite


KEPT_SHAPES = 256
"""Shapes of slots whose cuts are kept."""


class Run(NamedTuple):
    """Rank rows of one module that one strided matrix describes.

    Offsets count elements from the slot's base. ``first`` is the place of the run's first tile in
    the list of its (slot, site); all its tiles have the scale of that one.
    """

    first: int
    rows: int
    a: int
    a_stride: int
    b: int
    b_stride: int


@dataclass(frozen=True, eq=False)
class Slot:
    """A slot as it was when the table was last written.

    Attributes
    ----------
    number : int
    uid : int
        Another one after every change of the slot's lists.
    base : int
        Smallest tile offset, in elements.
    shape : int
        Slots of one shape are translates of each other: the same tile lists, but for scales and
        for one distance between all offsets.
    scale : float | None
        Of all tiles; None where they differ.
    has_dense : bool
    content : bytes
        The lists themselves.
    """

    number: int
    uid: int
    base: int
    shape: int
    scale: float | None
    has_dense: bool
    content: bytes


class SlotTable:
    """Mirror of a ``LoraTable``'s lists on the host; on the CPU it shares their memory."""

    def __init__(self, table: LoraTable) -> None:
        self._uids = count()
        self._slots: dict[int, Slot] = {}
        self._checked: set[int] = set()
        self._shapes: dict[bytes, int] = {}
        self._runs: dict[tuple[int, int], list[Run]] = {}
        self._attach(table)

    def _attach(self, table: LoraTable) -> None:
        self.table = table
        self.version = table.version
        itemsize = table.dtype.itemsize
        usable = table.arena.numel() // 64 * 64
        self.arena = table.arena
        self.flat = table.arena[:usable].view(table.dtype)
        self.itemsize = itemsize
        self.tile_start = _host(table.tile_start)
        self.tile_count = _host(table.tile_count)
        self.tile_offset = _host(table.tile_offset)
        self.tile_rank = _host(table.tile_rank)
        self.tile_scale = _host(table.tile_scale)
        self.dense_start = _host(table.dense_start)
        self.dense_count = _host(table.dense_count)
        self.dense_kind = _host(table.dense_kind)
        self.dense_offset = _host(table.dense_offset)
        self.dense_index = _host(table.dense_index)
        self.dense_weight = _host(table.dense_weight)

    def is_current(self, table: LoraTable) -> bool:
        """Whether nothing was written since the last ``refresh``."""
        return self.table is table and self.version == table.version

    def refresh(self, table: LoraTable) -> bool:
        """Follow the table after a change; False where what was known is of another arena."""
        if table is not self.table or table.arena is not self.arena:
            return False
        self._attach(table)
        self._checked.clear()
        return True

    def slot(self, number: int) -> Slot:
        """Describe a slot; the same object as before if its lists have not changed."""
        known = self._slots.get(number)
        if known is not None and number in self._checked:
            return known
        self._checked.add(number)
        counts = self.tile_count[number]
        tiles = _positions(self.tile_start[number], counts)
        dense_counts = self.dense_count[number]
        dense = _positions(self.dense_start[number], dense_counts)
        offset, rank = self.tile_offset[tiles], self.tile_rank[tiles]
        scale = self.tile_scale[tiles]
        lists = [counts, offset, rank, scale, dense_counts]
        for column in (self.dense_kind, self.dense_offset, self.dense_index, self.dense_weight):
            lists.append(column[dense])
        content = b"".join(part.tobytes() for part in lists)
        if known is not None and known.content == content:
            return known
        base = int(offset.min()) if offset.size else 0
        # runs break where the scale changes, so that pattern is part of the shape
        breaks = scale[1:] != scale[:-1]
        parts = (counts, offset - base, rank, breaks)
        slot = Slot(
            number=number,
            uid=next(self._uids),
            base=base // self.itemsize,
            shape=self._shape(b"".join(part.tobytes() for part in parts)),
            scale=None if breaks.any() or not scale.size else float(scale[0]),
            has_dense=bool(dense_counts.any()),
            content=content,
        )
        self._slots[number] = slot
        return slot

    def _shape(self, lists: bytes) -> int:
        if lists not in self._shapes and len(self._shapes) >= KEPT_SHAPES:
            self._shapes.clear()
            self._runs.clear()
        return self._shapes.setdefault(lists, next(self._uids))

    def runs(self, slot: Slot, site: LoraSite) -> list[Run]:
        """Cut the tile list of (slot, site) into as few strided matrices as it allows."""
        key = slot.shape, site.index
        known = self._runs.get(key)
        if known is None:
            known = self._runs[key] = self._cut(slot, site)
        return known

    def _cut(self, slot: Slot, site: LoraSite) -> list[Run]:
        start = int(self.tile_start[slot.number, site.index])
        tiles = slice(start, start + int(self.tile_count[slot.number, site.index]))
        offsets = (self.tile_offset[tiles] // self.itemsize - slot.base).tolist()
        ranks, scales = self.tile_rank[tiles].tolist(), self.tile_scale[tiles].tolist()
        t, width, out = self.table.tile_rows, site.in_features, site.out_features
        runs: list[Run] = []
        for i, (offset, rank) in enumerate(zip(offsets, ranks, strict=True)):
            if t == 1 and runs and scales[i] == scales[i - 1]:
                # one-row tiles an equal distance apart are the rows of one matrix
                last = runs[-1]
                step = offset - offsets[i - 1]
                if step >= width and (last.rows == 1 or step == last.a_stride):
                    grown = last._replace(rows=last.rows + 1, a_stride=step, b_stride=step)
                    runs[-1] = grown
                    continue
            runs.append(Run(i, rank, offset, width, offset + t * width, out))
        return runs

    def scale(self, slot: Slot, site: LoraSite, run: Run) -> float:
        """Return the scale of a run."""
        if slot.scale is not None:
            return slot.scale
        return float(self.tile_scale[int(self.tile_start[slot.number, site.index]) + run.first])


def _host(values: torch.Tensor) -> npt.NDArray[np.generic]:
    return values.cpu().numpy()


def _positions(
    starts: npt.NDArray[np.generic], counts: npt.NDArray[np.generic]
) -> slice | npt.NDArray[np.int64]:
    """Return where in a flat list the given ranges lie, one after another."""
    starts64, counts64 = starts.astype(np.int64), counts.astype(np.int64)
    used = counts64 > 0
    starts64, counts64 = starts64[used], counts64[used]
    if not starts64.size:
        return slice(0, 0)
    ends = starts64 + counts64
    if (starts64[1:] == ends[:-1]).all():
        return slice(int(starts64[0]), int(ends[-1]))
    before = np.cumsum(counts64) - counts64
    return np.repeat(starts64 - before, counts64) + np.arange(int(counts64.sum()))
