"""The flat lists of a ``LoraTable``: what an adapter enters there, and where."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from plait_kernels.lora_types import DENSE_ADD
from plait_kernels.transfer import upload

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plait_lora.layout import AdapterLayout
    from plait_lora.weights import DenseWeights, ModuleWeights

Lists: TypeAlias = dict[str, npt.NDArray[Any]]
"""Columns of a list, and ``site``, the site index of each entry; ascending by site."""


class RangeAllocator:
    """Hands out ranges of 0..capacity by first fit and takes them back.

    Parameters
    ----------
    capacity : int
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = [(0, capacity)] if capacity else []

    @property
    def num_free(self) -> int:
        """How many entries are in no range."""
        return sum(length for _, length in self._free)

    def allocate(self, length: int) -> int | None:
        """Take a range; return its start, None where none is long enough."""
        for place, (start, free) in enumerate(self._free):
            if free >= length:
                self._free[place : place + 1] = (
                    [(start + length, free - length)] if free > length else []
                )
                return start
        return None

    def free(self, start: int, length: int) -> None:
        """Give a range back."""
        place = bisect_left(self._free, (start, 0))
        end = start + length
        assert place == len(self._free) or end <= self._free[place][0], "freed twice"
        assert not place or sum(self._free[place - 1]) <= start, "freed twice"
        last = place
        if place < len(self._free) and self._free[place][0] == end:
            end += self._free[place][1]
            last += 1
        if place and sum(self._free[place - 1]) == start:
            place -= 1
            start = self._free[place][0]
        self._free[place:last] = [(start, end - start)]

    def grow(self, capacity: int) -> None:
        """Raise the capacity."""
        added = capacity - self.capacity
        self.free(self.capacity, added)
        self.capacity = capacity


@dataclass(frozen=True)
class Range:
    """A range of a flat list."""

    start: int
    length: int


class FlatLists:
    """Parallel device tensors whose ranges are handed out; the capacity doubles when it is full.

    Growing replaces the tensors, so a captured graph that reads the old ones must be captured
    again: choose the capacity large enough where graphs are used.

    Parameters
    ----------
    dtypes : Mapping[str, torch.dtype]
        One column each.
    capacity : int
    device : torch.device
    """

    def __init__(
        self, dtypes: Mapping[str, torch.dtype], capacity: int, device: torch.device
    ) -> None:
        self.columns = {
            name: torch.zeros(capacity, dtype=dtype, device=device)
            for name, dtype in dtypes.items()
        }
        self.ranges = RangeAllocator(capacity)

    def put(self, values: Lists) -> Range:
        """Write one list into a free range.

        Parameters
        ----------
        values : Lists
            Equally long, one for every column; others are ignored.

        Returns
        -------
        Range
        """
        length = len(next(iter(values.values())))
        if not length:
            return Range(0, 0)
        start = self.ranges.allocate(length)
        while start is None:
            self._grow(max(2 * self.ranges.capacity, length))
            start = self.ranges.allocate(length)
        for name, column in self.columns.items():
            column[start : start + length] = upload(values[name], column.device)
        return Range(start, length)

    def remove(self, taken: Range) -> None:
        """Give a range back."""
        if taken.length:
            self.ranges.free(taken.start, taken.length)

    def reset(self) -> None:
        """Take every range back, also those that were handed out or grew half-way."""
        capacity = min(column.numel() for column in self.columns.values())
        self.ranges = RangeAllocator(capacity)

    def _grow(self, capacity: int) -> None:
        for name, column in self.columns.items():
            grown = column.new_zeros(capacity)
            grown[: column.numel()] = column
            self.columns[name] = grown
        self.ranges.grow(capacity)


def tile_lists(
    layout: AdapterLayout, bases: Sequence[int], modules: Mapping[int, ModuleWeights]
) -> Lists:
    """List an adapter's tiles: site, offset, rank, scale; tiles of a site are in order of rank.

    Parameters
    ----------
    layout : AdapterLayout
    bases : Sequence[int]
        Byte offset of each run in the arena.
    modules : Mapping[int, ModuleWeights]
        By site index.

    Returns
    -------
    Lists
    """
    t, pieces = layout.tile_rows, layout.pieces
    counts = np.array([piece.num_tiles for piece in pieces], np.int64)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)

    def per_tile(values: Sequence[float], dtype: type[np.generic]) -> npt.NDArray[Any]:
        return np.repeat(np.array(values, dtype), counts)

    tile = within + per_tile([piece.first_tile for piece in pieces], np.int64)
    rank = per_tile([modules[piece.site_index].rank for piece in pieces], np.int64)
    offset = per_tile([bases[piece.run] + piece.offset for piece in pieces], np.int64)
    stride = per_tile([piece.stride for piece in pieces], np.int64)
    return {
        "site": per_tile([piece.site_index for piece in pieces], np.int64),
        "offset": offset + within * stride,
        "rank": np.minimum(rank - tile * t, t).astype(np.int32),
        "scale": per_tile([modules[piece.site_index].scale for piece in pieces], np.float32),
    }


def dense_lists(
    layout: AdapterLayout, bases: Sequence[int], dense: Sequence[DenseWeights]
) -> Lists:
    """List an adapter's dense entries: site, kind, offset, index, weight.

    Parameters
    ----------
    layout : AdapterLayout
    bases : Sequence[int]
        Byte offset of each run in the arena.
    dense : Sequence[DenseWeights]
        In the order of ``layout.dense``.

    Returns
    -------
    Lists
    """
    lists: Lists = {
        "site": np.array([entry.site_index for entry in dense], np.int64),
        "kind": np.array([entry.kind for entry in dense], np.int32),
        "offset": np.array([bases[place.run] + place.offset for place in layout.dense], np.int64),
        "index": np.array([entry.index for entry in dense], np.int32),
        "weight": np.ones(len(dense), np.float32),
    }
    return _by_site(lists)


def tile_lists_of_mix(parts: Sequence[tuple[Lists, float]]) -> Lists:
    """Join the tiles of several adapters, each with its weight, site by site."""
    return _joined(
        [tiles | {"scale": tiles["scale"] * np.float32(weight)} for tiles, weight in parts]
    )


def dense_lists_of_mix(parts: Sequence[tuple[Lists, float]]) -> Lists:
    """Join the dense entries of several adapters; the weight acts on those that add."""
    return _joined(
        [
            dense
            | {"weight": np.where(dense["kind"] == DENSE_ADD, np.float32(weight), np.float32(1))}
            for dense, weight in parts
        ]
    )


def _joined(parts: Sequence[Lists]) -> Lists:
    if len(parts) == 1:
        return parts[0]
    return _by_site({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _by_site(lists: Lists) -> Lists:
    order = np.argsort(lists["site"], kind="stable")
    return {name: values[order] for name, values in lists.items()}
