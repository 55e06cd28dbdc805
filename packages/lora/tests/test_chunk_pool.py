"""ChunkPool against a plain set of free chunks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from plait_lora.chunk_pool import ChunkPool


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(0, 12),
    actions=st.lists(st.lists(st.integers(1, 4), max_size=4) | st.integers(0, 10), max_size=30),
)
def test_runs_are_adjacent_and_disjoint(size: int, actions: list[list[int] | int]) -> None:
    pool, free = ChunkPool(size), set(range(size))
    taken: list[tuple[tuple[int, ...], list[int]]] = []
    for action in actions:
        if isinstance(action, list):
            firsts = pool.allocate(action)
            if firsts is None:
                # One run by itself is refused only if no gap is that long.
                gaps = ["".join("x" if i in free else " " for i in range(size))]
                longest = max(map(len, gaps[0].split()), default=0)
                assert len(action) != 1 or action[0] > longest
            else:
                chunks = [c for f, n in zip(firsts, action, strict=True) for c in range(f, f + n)]
                assert len(set(chunks)) == len(chunks)
                assert set(chunks) <= free
                free -= set(chunks)
                taken.append((firsts, action))
        elif taken:
            firsts, runs = taken.pop(action % len(taken))
            pool.free(firsts, runs)
            free |= {c for f, n in zip(firsts, runs, strict=True) for c in range(f, f + n)}
        assert pool.num_free == len(free)
    for firsts, runs in taken:
        pool.free(firsts, runs)
    assert pool.allocate([size] if size else []) is not None, "free runs have joined again"


def test_a_copy_is_independent() -> None:
    pool = ChunkPool(3)
    other = pool.copy()
    assert other.allocate([3]) == (0,)
    assert (pool.num_free, other.num_free) == (3, 0)
