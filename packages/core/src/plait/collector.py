"""Python's garbage collector beside an engine."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


def made_beside_frozen(make: Callable[[], _T]) -> _T:
    """Call ``make``; while what it makes lives, the collector leaves alone what was there before.

    That is some hundred thousand objects of torch and transformers, and a look at each of them
    would stop an engine for 0.1 s or more, again and again. Objects made later are collected as
    always, the new one among them. Where objects are frozen already, nothing changes.

    Examples
    --------
    >>> class Engine: ...
    >>> engine = made_beside_frozen(Engine)
    >>> gc.get_freeze_count() > 0
    True
    >>> del engine
    >>> gc.get_freeze_count()
    0
    """
    if gc.get_freeze_count():
        return make()
    # What is garbage now is not kept, least of all an engine and its memory.
    gc.collect()
    gc.freeze()
    try:
        made = make()
    except BaseException:
        gc.unfreeze()
        raise
    weakref.finalize(made, gc.unfreeze)
    return made
