"""AdapterLayout: where an adapter's tiles lie within the chunks it is given. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

ALIGNMENT = 64
"""Every tile and dense row begins at a multiple of this, in bytes."""


class ModuleShape(NamedTuple):
    """What the layout needs to know of one module of an adapter."""

    site_index: int
    rank: int
    in_features: int
    out_features: int


class Piece(NamedTuple):
    """Tiles of one module that lie one after another.

    Tile ``first_tile + i`` of the module begins ``offset + i * stride`` bytes into run ``run``.
    """

    site_index: int
    first_tile: int
    num_tiles: int
    run: int
    offset: int
    stride: int


class DensePlace(NamedTuple):
    """Where a dense row begins: ``offset`` bytes into run ``run``."""

    run: int
    offset: int


@dataclass(frozen=True)
class AdapterLayout:
    """How one adapter packs into chunks.

    An adapter is given *runs* of adjacent chunks, mostly of one chunk. No tile crosses the end of
    a run.

    Attributes
    ----------
    chunk_bytes, itemsize, tile_rows : int
        What the layout was planned for; an arena must agree.
    runs : tuple[int, ...]
        Length of each run, in chunks.
    pieces : tuple[Piece, ...]
        The tiles of every module, in order of (site, first tile).
    dense : tuple[DensePlace, ...]
        One for every dense row, in the order they were given.
    bytes : int
        Of tiles and dense rows, their alignment included.
    """

    chunk_bytes: int
    itemsize: int
    tile_rows: int
    runs: tuple[int, ...]
    pieces: tuple[Piece, ...]
    dense: tuple[DensePlace, ...]
    bytes: int

    @property
    def num_chunks(self) -> int:
        """Chunks in all runs."""
        return sum(self.runs)

    @classmethod
    def plan(
        cls,
        modules: Sequence[ModuleShape],
        dense_bytes: Sequence[int] = (),
        *,
        chunk_bytes: int,
        itemsize: int,
        tile_rows: int = 8,
    ) -> AdapterLayout:
        """Pack an adapter: first-fit decreasing over its modules.

        The tiles of a module, and neighbouring modules of one shape (k and v, gate and up), stay
        together where they fit into a chunk: a kernel may then read them as one matrix. What is
        larger than a chunk is cut between tiles; a tile larger than a chunk gets a run.

        Parameters
        ----------
        modules : Sequence[ModuleShape]
            At most one a site, every rank at least 1.
        dense_bytes : Sequence[int]
            Size of each dense row.
        chunk_bytes : int
            A multiple of 64.
        itemsize : int
            Bytes of an element of a tile.
        tile_rows : int

        Returns
        -------
        AdapterLayout
            The same for the same arguments.
        """
        assert chunk_bytes > 0
        assert chunk_bytes % ALIGNMENT == 0, "chunks are multiples of the alignment"
        packing = _Packing(chunk_bytes)
        units: list[_Unit] = []
        for _, group in groupby(
            enumerate(sorted(modules)),
            # modules of neighbouring sites and one shape
            key=lambda place: (place[1].site_index - place[0], *place[1][1:]),
        ):
            shapes = [shape for _, shape in group]
            assert all(shape.rank > 0 for shape in shapes)
            stride = _aligned(
                tile_rows * (shapes[0].in_features + shapes[0].out_features) * itemsize
            )
            tiles = -(-shapes[0].rank // tile_rows)
            if len(shapes) * tiles * stride <= chunk_bytes:
                parts = tuple((shape.site_index, 0, tiles) for shape in shapes)
                units.append(_Unit(len(shapes) * tiles * stride, stride, parts))
                continue
            at_once = max(1, chunk_bytes // stride)
            for shape in shapes:
                for first in range(0, tiles, at_once):
                    count = min(at_once, tiles - first)
                    units.append(_Unit(count * stride, stride, ((shape.site_index, first, count),)))
        rows = [_Unit(_aligned(size), 0, (), place) for place, size in enumerate(dense_bytes)]
        dense = [DensePlace(0, 0)] * len(rows)
        pieces = []
        # sorted() is stable: among equals the order of sites remains
        for unit in sorted(units + rows, key=lambda unit: -unit.size):
            run, offset = packing.place(unit.size)
            if unit.dense is not None:
                dense[unit.dense] = DensePlace(run, offset)
            for site_index, first, count in unit.parts:
                pieces.append(Piece(site_index, first, count, run, offset, unit.stride))
                offset += count * unit.stride
        return cls(
            chunk_bytes=chunk_bytes,
            itemsize=itemsize,
            tile_rows=tile_rows,
            runs=tuple(packing.runs),
            pieces=tuple(sorted(pieces)),
            dense=tuple(dense),
            bytes=sum(unit.size for unit in units + rows),
        )


class _Unit(NamedTuple):
    """What is placed as a whole: (site, first tile, tiles) one after another, or a dense row."""

    size: int
    stride: int
    parts: tuple[tuple[int, int, int], ...]
    dense: int | None = None


@dataclass
class _Packing:
    """Runs in use, and how much of each is taken."""

    chunk_bytes: int
    runs: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)

    def place(self, size: int) -> tuple[int, int]:
        """Find the first run with room, or begin one; return (run, offset)."""
        for run, taken in enumerate(self.taken):
            if taken + size <= self.runs[run] * self.chunk_bytes:
                self.taken[run] += size
                return run, taken
        self.runs.append(-(-size // self.chunk_bytes))
        self.taken.append(size)
        return len(self.runs) - 1, 0


def _aligned(size: int) -> int:
    return size + -size % ALIGNMENT
