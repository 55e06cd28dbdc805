"""Stop strings: where they end a growing text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class StopStrings:
    """The stop strings of a request.

    The stop string that is complete first ends the text, as if the text came character by
    character; of those that are complete with the same character, the longest. So the place does
    not depend on how the text is split into tokens.

    Attributes
    ----------
    strings : Sequence[str]
        None of them empty.
    include : bool
        Keep the stop string at the end of the text.
    """

    strings: Sequence[str]
    include: bool = False

    def find(self, text: str, decided: int) -> tuple[int, str] | None:
        """Find the stop string that ends the text.

        Parameters
        ----------
        text : str
        decided : int
            Stop strings that end within so many characters do not count.

        Returns
        -------
        tuple[int, str] | None
            How many characters of the text stay, and the stop string.
        """
        hits = []
        for stop in self.strings:
            start = text.find(stop, max(0, decided - len(stop) + 1))
            if start >= 0:
                hits.append((start + len(stop), start, stop))
        if not hits:
            return None
        end, start, stop = min(hits)
        return (end if self.include else start), stop

    def undecided(self, text: str) -> int:
        """Count the last characters that a stop string may yet take away.

        Parameters
        ----------
        text : str
            Without a stop string in it.
        """
        if self.include or not self.strings:
            return 0
        return max((_overlap(text, stop) for stop in self.strings), default=0)


def _overlap(text: str, stop: str) -> int:
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
