"""Transaction: a call that changes the books of an engine, all of it or, once mended, none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from plait_kernels.errors import PlaitError

if TYPE_CHECKING:
    from types import TracebackType


class Books(Protocol):
    """What a call may leave torn when it is broken off: by an interrupt, or by any error.

    Attributes
    ----------
    torn : bool
        Whether nobody knows what state they are in.
    """

    torn: bool

    def mend(self) -> None:
        """Make the books whole, whatever state they are in; may itself be broken off."""


class Transaction:
    """Context of one call that changes books.

    An interrupt may come between any two statements, those of this class included. So the books
    count as torn from the beginning to the very end, and torn books are mended before anything
    else is done with them: at once if the call broke off, else by the next call. A refusal, which
    is one of plait's errors, leaves the books whole.

    Parameters
    ----------
    books : Books
    """

    __slots__ = ("_books",)

    def __init__(self, books: Books) -> None:
        self._books = books

    def __enter__(self) -> None:
        if self._books.torn:
            self._books.mend()
        self._books.torn = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, PlaitError):
            self._books.mend()
        self._books.torn = False
