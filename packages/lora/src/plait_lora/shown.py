"""Values from a file, short enough for a message."""

from __future__ import annotations

import reprlib

_LONGEST = 160
"""Characters of a value that a message repeats; the rest is dots."""

_HUGE = 10**40


class _Short(reprlib.Repr):
    """``repr`` of at most some hundred characters, whatever the value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = _LONGEST
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 8
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        """Write no digits of a number that has thousands: Python refuses to."""
        return repr(x) if abs(x) < _HUGE else f"an integer of {x.bit_length()} bits"


def shown(value: object) -> str:
    """Return the ``repr`` of a value, shortened in the middle."""
    try:
        text = _Short().repr(value)
    except Exception:  # a stranger's object may fail in its __repr__; the message is about more
        return f"a {type(value).__name__}"
    return shortened(text)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """Return a text with its middle left out where it is longer than ``longest``."""
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]}...{text[-half:]}"
