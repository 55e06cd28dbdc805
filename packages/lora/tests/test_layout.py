"""AdapterLayout: nothing overlaps, nothing is lost, what can stay together does."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from plait_lora.layout import ALIGNMENT, AdapterLayout, ModuleShape

WIDTHS = st.sampled_from((5, 16, 48, 192))


def shapes() -> st.SearchStrategy[list[ModuleShape]]:
    module = st.tuples(st.integers(0, 40), st.integers(1, 70), WIDTHS, WIDTHS)
    return st.lists(module.map(lambda m: ModuleShape(*m)), unique_by=lambda m: m.site_index)


@given(
    modules=shapes(),
    dense=st.lists(st.integers(4, 5000), max_size=5),
    chunk_bytes=st.sampled_from((64, 1024, 8192, 1 << 20)),
    itemsize=st.sampled_from((2, 4)),
    tile_rows=st.sampled_from((1, 8, 16)),
)
def test_every_tile_has_its_own_place(
    modules: list[ModuleShape], dense: list[int], chunk_bytes: int, itemsize: int, tile_rows: int
) -> None:
    layout = AdapterLayout.plan(
        modules, dense, chunk_bytes=chunk_bytes, itemsize=itemsize, tile_rows=tile_rows
    )
    by_site = {module.site_index: module for module in modules}
    tiles = set()
    spans = []
    for piece in layout.pieces:
        module = by_site[piece.site_index]
        size = tile_rows * (module.in_features + module.out_features) * itemsize
        assert piece.stride >= size
        for i in range(piece.num_tiles):
            tiles.add((piece.site_index, piece.first_tile + i))
            start = piece.offset + i * piece.stride
            spans.append((piece.run, start, start + size))
    expected = {
        (module.site_index, tile)
        for module in modules
        for tile in range(-(-module.rank // tile_rows))
    }
    assert tiles == expected
    assert sum(piece.num_tiles for piece in layout.pieces) == len(expected)
    assert len(layout.dense) == len(dense)
    spans += [
        (place.run, place.offset, place.offset + size)
        for place, size in zip(layout.dense, dense, strict=True)
    ]
    spans.sort()
    for run, start, end in spans:
        assert start % ALIGNMENT == 0
        assert end <= layout.runs[run] * chunk_bytes
    for before, after in pairwise(spans):
        assert before[0] < after[0] or before[2] <= after[1]
    assert layout.num_chunks == sum(layout.runs)
    assert sum(end - start for _, start, end in spans) <= layout.bytes
    assert layout.bytes <= layout.num_chunks * chunk_bytes


def test_runs_are_single_chunks_where_tiles_fit() -> None:
    modules = [ModuleShape(i, 64, 576, 576) for i in range(20)]
    layout = AdapterLayout.plan(modules, chunk_bytes=1 << 18, itemsize=4)
    assert set(layout.runs) == {1}
    # first-fit decreasing wastes little on modules of one size
    assert layout.num_chunks * (1 << 18) < 1.25 * layout.bytes


def test_tile_larger_than_a_chunk_gets_a_run() -> None:
    layout = AdapterLayout.plan([ModuleShape(0, 9, 1000, 24)], chunk_bytes=4096, itemsize=4)
    assert layout.runs == (8, 8)
    assert [piece.first_tile for piece in layout.pieces] == [0, 1]


def test_neighbours_of_one_shape_stay_together() -> None:
    modules = [
        ModuleShape(3 * layer + place, 16, 576, 576 if place == 0 else 192)
        for layer in range(4)
        for place in range(3)
    ]
    layout = AdapterLayout.plan(modules, chunk_bytes=1 << 18, itemsize=4, tile_rows=1)
    pieces = {piece.site_index: piece for piece in layout.pieces}
    assert len(pieces) == len(layout.pieces)
    for layer in range(4):
        k, v = pieces[3 * layer + 1], pieces[3 * layer + 2]
        assert (k.run, k.offset + k.num_tiles * k.stride) == (v.run, v.offset)


def test_the_same_modules_give_the_same_layout() -> None:
    modules = [ModuleShape(i, 1 + i, 48, 48) for i in range(9)]
    first = AdapterLayout.plan(modules, (100,), chunk_bytes=4096, itemsize=2)
    again = AdapterLayout.plan(modules[::-1], (100,), chunk_bytes=4096, itemsize=2)
    assert first == again
    assert hash(first) == hash(again)


def test_an_adapter_without_modules_takes_nothing() -> None:
    layout = AdapterLayout.plan([], chunk_bytes=4096, itemsize=4)
    assert (layout.num_chunks, layout.bytes) == (0, 0)


def test_imports_no_torch() -> None:
    code = "import sys, plait_lora.layout; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
