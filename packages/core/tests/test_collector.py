"""Python's garbage collector beside an engine."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from plait.collector import made_beside_frozen


class Engine:
    """Something that can be referred to weakly, and is in a cycle, as engines are."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _nothing_frozen() -> Iterator[None]:
    """Begin, and end, with a collector that looks at everything."""
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_what_was_there_before_is_left_alone_while_the_engine_lives() -> None:
    engine = made_beside_frozen(Engine)
    frozen = gc.get_freeze_count()
    assert frozen > 1000
    # The engine itself is not frozen: it goes, and with it what held the others.
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None
    assert gc.get_freeze_count() == 0


def test_a_second_engine_changes_nothing() -> None:
    first = made_beside_frozen(Engine)
    frozen = gc.get_freeze_count()
    second = made_beside_frozen(Engine)
    assert gc.get_freeze_count() == frozen
    del second
    gc.collect()
    assert gc.get_freeze_count() == frozen
    del first
    gc.collect()
    assert gc.get_freeze_count() == 0


def test_an_engine_that_cannot_be_made_leaves_nothing_frozen() -> None:
    def fail() -> Engine:
        raise MemoryError

    with pytest.raises(MemoryError):
        made_beside_frozen(fail)
    assert gc.get_freeze_count() == 0
