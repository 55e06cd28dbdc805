"""KV blocks: who holds which, and which still hold a prefix that can be used again."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class BlockPool:
    """Hands out blocks, counts their holders and remembers the content of full ones.

    A block that nobody holds keeps its content until it is handed out again, oldest first, so a
    later request with the same prefix can take it back.

    Parameters
    ----------
    num_blocks : int
    enable_caching : bool
        Whether content is remembered at all.
    """

    def __init__(self, num_blocks: int, *, enable_caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self.enable_caching = enable_caching
        self._holders = [0] * num_blocks
        self._hash_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        # First = handed out next.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, those with remembered content included."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Hand out ``count`` blocks and forget what they held; the caller saw ``num_free``."""
        assert count <= self.num_free
        blocks = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in blocks:
            self._forget(block)
            self._holders[block] = 1
        return blocks

    def match(self, hashes: Iterable[bytes]) -> list[int]:
        """Return the blocks of the longest remembered prefix, without taking them."""
        found: list[int] = []
        for digest in hashes:
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def num_idle(self, blocks: Sequence[int]) -> int:
        """Of ``blocks``, how many nobody holds: taking them uses up so many free ones."""
        return sum(self._holders[block] == 0 for block in blocks)

    def take(self, blocks: Sequence[int]) -> None:
        """Hold remembered blocks once more."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._free[block]
            self._holders[block] += 1

    def remember(self, block: int, digest: bytes) -> None:
        """Note what a held, full block contains; the first block with a content is the one used."""
        assert self._holders[block] > 0
        if self.enable_caching and digest not in self._block_of and block not in self._hash_of:
            self._block_of[digest] = block
            # Last: from this one the other is worked out again.
            self._hash_of[block] = digest

    def free(self, blocks: Sequence[int]) -> None:
        """Let go of a sequence's blocks, given in the order of the sequence."""
        # The end of a sequence is the least likely to be shared: it goes first.
        for block in reversed(blocks):
            assert self._holders[block] > 0
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._free[block] = None
                if block not in self._hash_of:
                    # Nothing to lose, and its memory is warm.
                    self._free.move_to_end(block, last=False)

    def mend(self) -> None:
        """Take every block back, whatever broke off on the way; what they hold stays known."""
        self._holders = [0] * self.num_blocks
        self._block_of = {digest: block for block, digest in self._hash_of.items()}
        empty = [block for block in range(self.num_blocks) if block not in self._hash_of]
        self._free = OrderedDict.fromkeys([*empty, *self._hash_of])

    def reset_cache(self) -> None:
        """Forget all remembered content."""
        self._hash_of.clear()
        self._block_of.clear()

    def num_remembered(self) -> int:
        """Blocks whose content could be found again."""
        return len(self._hash_of)

    def _forget(self, block: int) -> None:
        digest = self._hash_of.pop(block, None)
        if digest is not None:
            del self._block_of[digest]
