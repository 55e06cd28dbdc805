"""Python's garbage collector beside an engine."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from plait.collector import made_and_frozen


class Engine:
    """Something that can be referred to weakly."""


class Cycle:
    """Garbage for the collector as soon as nobody else refers to it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _nothing_frozen() -> Iterator[None]:
    """Begin, and end, with a collector that looks at everything."""
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_what_is_there_is_left_alone_while_the_engine_lives() -> None:
    kept: list[list[int]] = []

    def make() -> Engine:
        kept.append([1])
        return Engine()

    engine = made_and_frozen(make)
    looked_at = {id(thing) for thing in gc.get_objects()}
    # What came while it was made too.
    assert not looked_at & {id(kept), id(kept[0]), id(engine)}
    del engine
    assert gc.get_freeze_count() == 0


def test_what_comes_later_is_collected() -> None:
    engine = made_and_frozen(Engine)
    gone = weakref.ref(Cycle())
    gc.collect()
    assert gone() is None
    assert gc.get_freeze_count() > 0
    del engine


def test_garbage_is_not_kept() -> None:
    gone = weakref.ref(Cycle())
    engine = made_and_frozen(Engine)
    assert gone() is None
    del engine


def test_a_second_engine_changes_nothing() -> None:
    first = made_and_frozen(Engine)
    second = made_and_frozen(Engine)
    # Counts would not do: another thread may free what was frozen at any time.
    looked_at = {id(thing) for thing in gc.get_objects()}
    assert id(second) in looked_at
    assert id(first) not in looked_at
    del second
    assert gc.get_freeze_count() > 0
    del first
    assert gc.get_freeze_count() == 0


def test_an_engine_that_cannot_be_made_leaves_nothing_frozen() -> None:
    def fail() -> Engine:
        raise MemoryError

    with pytest.raises(MemoryError):
        made_and_frozen(fail)
    assert gc.get_freeze_count() == 0
