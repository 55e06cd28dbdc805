"""Checks of callers' arguments: bounded messages, and values that ask for nothing."""

from __future__ import annotations

import numbers
import reprlib
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN = 80
"""Characters of a text, or of any other one value, that a message repeats."""

_MOST = 400
"""Characters of any value."""


class _Short(reprlib.Repr):
    """Repr of any value, in bounded time and space."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = longest
        self.maxlevel = 3

    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to write an int of more than some thousand digits.
        if value.bit_length() > 256:
            return f"an int of about {value.bit_length() * 3 // 10} digits"
        return repr(value)


def shown(value: object, longest: int = _SHOWN) -> str:
    """Write a value for an error message: its repr, shortened where it is long.

    Parameters
    ----------
    value : object
        Anything, as a caller passed it.
    longest : int
        Characters of a text in it.

    Returns
    -------
    str
        Some 400 characters at most.

    Examples
    --------
    >>> shown([1, "two"])
    "[1, 'two']"
    >>> shown(10**400)
    'an int of about 398 digits'
    """
    text = _Short(longest).repr(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"


def asks_for_nothing(value: Any, neutral: Iterable[Any] = ()) -> bool:
    """Return whether a value of an argument that is not served may pass.

    Parameters
    ----------
    value : Any
        None, False and what is empty ask for nothing, whatever the argument.
    neutral : Iterable[Any]
        Values of this argument that ask for nothing as well; numbers are equal over their types.
    """
    if value is None or value is False:
        return True
    if isinstance(value, str | bytes | Sequence | Set | Mapping) and not len(value):
        return True
    return any(_same(value, item) for item in neutral)


def _same(value: Any, item: Any) -> bool:
    if _is_number(value) and _is_number(item):
        return bool(value == item)
    # An enumeration of texts is as good as its texts.
    same = type(value) is type(item) or (isinstance(value, str) and isinstance(item, str))
    return same and bool(value == item)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
