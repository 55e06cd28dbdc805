"""Values from a file, short enough for a message."""

from __future__ import annotations

from plait_kernels import arguments

_LONGEST = 160
"""Characters of a text that a message repeats: names of tensors and paths mostly fit."""


def shown(value: object) -> str:
    """Return the ``repr`` of a value, shortened in the middle."""
    return shortened(arguments.shown(value, _LONGEST), 2 * _LONGEST)


def shortened(text: str, longest: int = _LONGEST) -> str:
    """Return a text with its middle left out where it is longer than ``longest``."""
    if len(text) <= longest:
        return text
    half = (longest - 3) // 2
    return f"{text[:half]}...{text[-half:]}"
