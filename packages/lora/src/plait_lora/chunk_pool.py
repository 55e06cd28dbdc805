"""ChunkPool: which chunks of the arena are free. Bookkeeping only, no memory."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class ChunkPool:
    """Free chunks, handed out in runs of adjacent ones by first fit.

    Parameters
    ----------
    num_chunks : int
        Chunks 0 to num_chunks - 1 exist; all are free at first.
    """

    def __init__(self, num_chunks: int) -> None:
        assert num_chunks >= 0
        self.num_chunks = num_chunks
        self._runs: list[tuple[int, int]] = [(0, num_chunks)] if num_chunks else []
        self._num_free = num_chunks

    @property
    def num_free(self) -> int:
        """How many chunks are free, adjacent or not."""
        return self._num_free

    def copy(self) -> ChunkPool:
        """Return an independent pool in the same state."""
        other = ChunkPool(0)
        other.num_chunks = self.num_chunks
        other._runs = list(self._runs)
        other._num_free = self._num_free
        return other

    def allocate(self, runs: Sequence[int]) -> tuple[int, ...] | None:
        """Take one run of adjacent chunks for every length, or nothing at all.

        Parameters
        ----------
        runs : Sequence[int]
            Lengths, each at least 1.

        Returns
        -------
        tuple[int, ...] | None
            First chunk of each run, in the order of ``runs``; None, with the pool as it was, when
            they do not fit.
        """
        if sum(runs) > self._num_free:
            return None
        kept = list(self._runs)
        firsts = [0] * len(runs)
        # Long runs first: short ones fit into what is left, hardly the other way round.
        for place in sorted(range(len(runs)), key=lambda i: -runs[i]):
            length = runs[place]
            assert length >= 1
            i = next((i for i, (_, free) in enumerate(self._runs) if free >= length), None)
            if i is None:
                self._runs = kept
                return None
            first, free = self._runs[i]
            firsts[place] = first
            if free == length:
                del self._runs[i]
            else:
                self._runs[i] = (first + length, free - length)
        self._num_free -= sum(runs)
        return tuple(firsts)

    def free(self, firsts: Sequence[int], runs: Sequence[int]) -> None:
        """Give back runs that ``allocate`` returned.

        Parameters
        ----------
        firsts, runs : Sequence[int]
            First chunk and length of each run.
        """
        for first, length in zip(firsts, runs, strict=True):
            self._free_run(first, length)

    def _free_run(self, first: int, length: int) -> None:
        i = bisect_left(self._runs, (first, 0))
        before = self._runs[i - 1] if i else None
        after = self._runs[i] if i < len(self._runs) else None
        assert first >= 0
        assert first + length <= self.num_chunks
        assert before is None or before[0] + before[1] <= first, "a chunk was freed twice"
        assert after is None or first + length <= after[0], "a chunk was freed twice"
        self._num_free += length
        if after is not None and after[0] == first + length:
            del self._runs[i]
            length += after[1]
        if before is not None and before[0] + before[1] == first:
            del self._runs[i - 1]
            first, length = before[0], before[1] + length
        insort(self._runs, (first, length))
