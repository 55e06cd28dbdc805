"""The block pool under any sequence of calls: nothing leaks, nothing is handed out twice."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from plait.block_pool import BlockPool

NUM_BLOCKS = 7


class BlockPoolMachine(RuleBasedStateMachine):
    """Holders are lists of blocks; a block's content is the hash it was given while held."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS)
        self.held: list[list[int]] = []
        self.content: dict[int, bytes] = {}

    def holders(self, block: int) -> int:
        return sum(blocks.count(block) for blocks in self.held)

    @rule(count=st.integers(0, NUM_BLOCKS))
    def allocate(self, count: int) -> None:
        if count > self.pool.num_free:
            return
        blocks = self.pool.allocate(count)
        assert len(set(blocks)) == count
        assert all(self.holders(block) == 0 for block in blocks)
        for block in blocks:
            self.content.pop(block, None)
        self.held.append(blocks)

    @precondition(lambda self: any(self.held))
    @rule(data=st.data(), digest=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def remember(self, data: st.DataObject, digest: bytes) -> None:
        blocks = sorted({block for blocks in self.held for block in blocks})
        block = data.draw(st.sampled_from(blocks))
        self.pool.remember(block, digest)
        if digest not in self.content.values() and block not in self.content:
            self.content[block] = digest

    @rule(digests=st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=3, unique=True))
    def take_prefix(self, digests: list[bytes]) -> None:
        blocks = self.pool.match(digests)
        by_digest = {digest: block for block, digest in self.content.items()}
        known = [by_digest.get(digest) for digest in digests]
        assert blocks == known[: len(blocks)]
        assert len(blocks) == len(digests) or known[len(blocks)] is None
        assert self.pool.num_idle(blocks) == sum(self.holders(b) == 0 for b in blocks)
        self.pool.take(blocks)
        self.held.append(list(blocks))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.held) - 1))
        self.pool.free(self.held.pop(index))

    @rule()
    def reset(self) -> None:
        self.pool.reset_cache()
        self.content.clear()

    @invariant()
    def nothing_is_lost(self) -> None:
        used = {block for blocks in self.held for block in blocks}
        assert self.pool.num_free == NUM_BLOCKS - len(used)
        assert self.pool.num_remembered() == len(self.content)


TestBlockPool = BlockPoolMachine.TestCase
TestBlockPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_oldest_content_is_forgotten_first() -> None:
    pool = BlockPool(3)
    first, second = pool.allocate(1), pool.allocate(1)
    pool.remember(first[0], b"first")
    pool.remember(second[0], b"second")
    pool.free(second)
    pool.free(first)
    pool.allocate(2)  # the block that was never used, then the one freed first
    assert pool.match([b"second"]) == []
    assert pool.match([b"first"]) == first


def test_without_caching_nothing_is_found_again() -> None:
    pool = BlockPool(2, enable_caching=False)
    blocks = pool.allocate(1)
    pool.remember(blocks[0], b"x")
    assert pool.match([b"x"]) == []


def test_freeing_twice_is_our_own_error() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    pool.free(blocks)
    with pytest.raises(AssertionError):
        pool.free(blocks)
