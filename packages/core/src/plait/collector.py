"""Python's garbage collector beside an engine."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


def made_and_frozen(make: Callable[[], _T]) -> _T:
    """Call ``make``; while what it makes lives, the collector leaves alone what is there by then.

    That is some hundred thousand objects of torch, transformers and Triton, many of them imported
    while an engine is made, and a look at each of them would stop it for 0.1 s or more, again and
    again. Objects made later are collected as always. Where objects are frozen already, nothing
    changes.

    What is made is frozen too: it must be free of reference cycles, so that it goes with its last
    reference.

    Examples
    --------
    >>> class Engine: ...
    >>> engine = made_and_frozen(Engine)
    >>> gc.get_freeze_count() > 0
    True
    >>> del engine
    >>> gc.get_freeze_count()
    0
    """
    made = make()
    if not gc.get_freeze_count():
        # What is garbage now is not kept, least of all an engine and its memory.
        gc.collect()
        gc.freeze()
        weakref.finalize(made, gc.unfreeze)
    return made
