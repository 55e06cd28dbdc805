"""LoraArena: the device memory of all adapters, and the tables that kernels read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from plait_kernels.lora_types import DENSE_ROW, TILE_ROWS, LoraBatch, LoraTable
from plait_kernels.transfer import upload
from plait_lora.batch import build_batch
from plait_lora.tables import (
    FlatLists,
    Lists,
    Range,
    dense_lists,
    dense_lists_of_mix,
    tile_lists,
    tile_lists_of_mix,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from plait_kernels.sites import LoraSite
    from plait_lora.layout import AdapterLayout, Piece
    from plait_lora.weights import DenseWeights, ModuleWeights

_TILE_COLUMNS = (("offset", torch.int64), ("rank", torch.int32), ("scale", torch.float32))
_DENSE_COLUMNS = (
    ("kind", torch.int32),
    ("offset", torch.int64),
    ("index", torch.int32),
    ("weight", torch.float32),
)


@dataclass(frozen=True, eq=False)
class _Resident:
    """The lists of an adapter that is loaded; entries are in order of their sites."""

    tiles: Lists
    dense: Lists
    groups: frozenset[str]


class LoraArena:
    """Executes the adapter store's commands: fills chunks and writes the tables.

    It does as it is told and checks little: which chunks are free, and which adapters a slot may
    name, is the store's business. A slot holds one contiguous range of each flat list.

    Parameters
    ----------
    num_chunks : int
    chunk_bytes : int
        A multiple of 64.
    num_slots : int
    sites : tuple[LoraSite, ...]
        Of the model.
    dtype : torch.dtype
        Of tiles and replaced rows; adapters are converted when they are loaded.
    device : torch.device | str
    tile_rows : int
        Rank rows of a tile. With 1 a module of any rank is one strided matrix, which is what
        plain matrix multiplication likes best; 8 suits kernels that work tile by tile.
    list_capacity : int
        Entries that the flat lists have at first. They double when they are full, which replaces
        their tensors.
    max_tiles : int
        What the table says at first as its bound; it grows when a mix has more tiles at a site.

    Attributes
    ----------
    table : LoraTable
    slot_tiles : ndarray, int32 [slots]
        Tiles of the mix in each slot, on the host.
    """

    def __init__(
        self,
        num_chunks: int,
        chunk_bytes: int,
        num_slots: int,
        sites: tuple[LoraSite, ...],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        tile_rows: int = TILE_ROWS,
        list_capacity: int = 1024,
        max_tiles: int = 0,
    ) -> None:
        self._chunk_bytes = chunk_bytes
        self._num_chunks = num_chunks
        self._sites = {site.index: site for site in sites}
        self._residents: dict[Hashable, _Resident] = {}
        self._assigned: dict[int, tuple[tuple[Hashable, ...], Range, Range]] = {}
        self.slot_tiles: npt.NDArray[np.int32] = np.zeros(num_slots, np.int32)
        columns = 1 + max(self._sites, default=-1)
        where = torch.device(device)
        # not as inference tensors, which could only be written in inference mode
        with torch.inference_mode(mode=False):
            arena = torch.empty(num_chunks * chunk_bytes, dtype=torch.uint8, device=where)
            self._tiles = FlatLists(dict(_TILE_COLUMNS), list_capacity, where)
            self._dense = FlatLists(dict(_DENSE_COLUMNS), 64, where)
            ranges = torch.zeros(4, num_slots, columns, dtype=torch.int32, device=where)
        self.table = LoraTable(
            arena=arena,
            dtype=dtype,
            tile_rows=tile_rows,
            tile_start=ranges[0],
            tile_count=ranges[1],
            tile_offset=self._tiles.columns["offset"],
            tile_rank=self._tiles.columns["rank"],
            tile_scale=self._tiles.columns["scale"],
            dense_start=ranges[2],
            dense_count=ranges[3],
            dense_kind=self._dense.columns["kind"],
            dense_offset=self._dense.columns["offset"],
            dense_index=self._dense.columns["index"],
            dense_weight=self._dense.columns["weight"],
            max_tiles=max_tiles,
            max_dense=0,
        )

    def load(
        self,
        key: Hashable,
        layout: AdapterLayout,
        chunks: Sequence[int],
        modules: Mapping[int, ModuleWeights],
        dense: Sequence[DenseWeights] = (),
    ) -> None:
        """Copy an adapter into chunks.

        Parameters
        ----------
        key : Hashable
            The adapter; not loaded yet.
        layout : AdapterLayout
            Planned for these modules and dense entries, and for this arena.
        chunks : Sequence[int]
            First chunk of each of the layout's runs.
        modules : Mapping[int, ModuleWeights]
            By site index.
        dense : Sequence[DenseWeights]
            In the order of ``layout.dense``.
        """
        table = self.table
        assert key not in self._residents, "an adapter is loaded once"
        planned = (layout.chunk_bytes, layout.itemsize, layout.tile_rows)
        assert planned == (self._chunk_bytes, table.dtype.itemsize, table.tile_rows)
        bases = [chunk * self._chunk_bytes for chunk in chunks]
        on_host = table.arena.device.type == "cpu"
        if on_host:
            memory, starts = table.arena, bases
        else:
            # one transfer for each run instead of one for each module
            size = layout.num_chunks * self._chunk_bytes
            memory = torch.empty(size, dtype=torch.uint8, pin_memory=True)
            ends = np.cumsum(layout.runs) * self._chunk_bytes
            starts = [0, *ends.tolist()][:-1]
        for piece in layout.pieces:
            _copy_piece(
                memory[starts[piece.run] :].view(table.dtype),
                piece,
                table.tile_rows,
                modules[piece.site_index],
            )
        dtypes = [table.dtype if entry.kind == DENSE_ROW else torch.float32 for entry in dense]
        for place, entry, dtype in zip(layout.dense, dense, dtypes, strict=True):
            start = starts[place.run] + place.offset
            target = memory[start : start + entry.row.numel() * dtype.itemsize]
            target.view(dtype).copy_(entry.row)
        if not on_host:
            for base, start, run in zip(bases, starts, layout.runs, strict=True):
                size = run * self._chunk_bytes
                target = table.arena[base : base + size]
                target.copy_(memory[start : start + size], non_blocking=True)
        sites = [*modules, *(entry.site_index for entry in dense)]
        self._residents[key] = _Resident(
            tile_lists(layout, bases, modules),
            dense_lists(layout, bases, dense),
            frozenset(self._sites[index].group for index in sites),
        )
        table.version += 1

    def evict(self, key: Hashable) -> None:
        """Forget an adapter that no slot names, if it is there; its chunks are free then."""
        assert all(key not in keys for keys, _, _ in self._assigned.values()), "a slot names it"
        self._residents.pop(key, None)
        self.table.version += 1

    def reset(self) -> None:
        """Forget all adapters and empty all slots, whatever broke off on the way.

        The tensors stay where they are, so graphs that were captured on them stay good.
        """
        self._residents.clear()
        self._assigned.clear()
        self._tiles.reset()
        self._dense.reset()
        self.slot_tiles[:] = 0
        self.table.tile_count.zero_()
        self.table.dense_count.zero_()
        self._attach_columns()
        self.table.version += 1

    def site_groups(self, slots: Iterable[int]) -> frozenset[str]:
        """Return the site groups that the adapters in these slots target."""
        keys = {key for slot in slots for key in self._assigned[slot][0]}
        return frozenset[str]().union(*(self._residents[key].groups for key in keys))

    def assign(self, slot: int, mix: Sequence[tuple[Hashable, float]]) -> None:
        """Put a mix of loaded adapters into an empty slot.

        Parameters
        ----------
        slot : int
        mix : Sequence[tuple[Hashable, float]]
            Adapters and their weights.
        """
        assert slot not in self._assigned, "a slot is released before it is assigned again"
        table = self.table
        parts = [(self._residents[key], weight) for key, weight in mix]
        tiles = tile_lists_of_mix([(part.tiles, weight) for part, weight in parts])
        dense = dense_lists_of_mix([(part.dense, weight) for part, weight in parts])
        with torch.inference_mode(mode=False):
            tile_range, dense_range = self._tiles.put(tiles), self._dense.put(dense)
        self._assigned[slot] = tuple(key for key, _ in mix), tile_range, dense_range
        self.slot_tiles[slot] = len(tiles["site"])
        starts, counts = table.tile_start[slot], table.tile_count[slot]
        longest = _write_ranges(starts, counts, tiles, tile_range)
        table.max_tiles = max(table.max_tiles, longest)
        starts, counts = table.dense_start[slot], table.dense_count[slot]
        longest = _write_ranges(starts, counts, dense, dense_range)
        table.max_dense = max(table.max_dense, longest)
        self._attach_columns()
        table.version += 1

    def release(self, slot: int) -> None:
        """Empty a slot, if it is not empty."""
        if slot not in self._assigned:
            return
        _, tiles, dense = self._assigned.pop(slot)
        self._tiles.remove(tiles)
        self._dense.remove(dense)
        self.slot_tiles[slot] = 0
        self.table.tile_count[slot] = 0
        self.table.dense_count[slot] = 0
        self.table.version += 1

    def batch(
        self,
        token_slot: npt.NDArray[np.int32],
        token_weight: npt.NDArray[np.float32] | None = None,
    ) -> LoraBatch:
        """Describe tokens to kernels; see ``plait_lora.batch.build_batch``."""
        return build_batch(self.table, token_slot, token_weight)

    def _attach_columns(self) -> None:
        table, tiles, dense = self.table, self._tiles.columns, self._dense.columns
        table.tile_offset, table.tile_rank = tiles["offset"], tiles["rank"]
        table.tile_scale = tiles["scale"]
        table.dense_kind, table.dense_offset = dense["kind"], dense["offset"]
        table.dense_index, table.dense_weight = dense["index"], dense["weight"]


def _copy_piece(run: torch.Tensor, piece: Piece, t: int, module: ModuleWeights) -> None:
    """Copy tiles into a run [elements]; rows past the module's rank are left as they are."""
    first, last = piece.first_tile * t, min((piece.first_tile + piece.num_tiles) * t, module.rank)
    a, b = module.a[first:last], module.b.T[first:last]
    offset, stride = piece.offset // run.itemsize, piece.stride // run.itemsize
    for matrix, start in ((a, offset), (b, offset + t * a.shape[1])):
        rows, width = matrix.shape
        whole, rest = divmod(rows, t)
        begin = run.storage_offset() + start
        tiles = run.as_strided((whole, t, width), (stride, width, 1), begin)
        tiles.copy_(matrix[: whole * t].reshape(whole, t, width))
        if rest:
            begin += whole * stride
            run.as_strided((rest, width), (width, 1), begin).copy_(matrix[whole * t :])


def _write_ranges(starts: torch.Tensor, counts: torch.Tensor, lists: Lists, taken: Range) -> int:
    """Write a slot's row [sites] of the tables and return the largest count.

    A slot's lists lie one site after another.
    """
    count = np.bincount(lists["site"], minlength=len(counts))
    first = taken.start + np.cumsum(count) - count
    starts.copy_(upload(first.astype(np.int32), starts.device))
    counts.copy_(upload(count.astype(np.int32), counts.device))
    return int(count.max(initial=0))
