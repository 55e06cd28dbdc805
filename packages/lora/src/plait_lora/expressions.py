"""Regular expressions from a stranger's file: matched as ``re`` does, for so long and no longer."""

from __future__ import annotations

import dataclasses
import re
import string
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import regex  # type: ignore[import-untyped]

from plait_kernels.errors import AdapterError
from plait_lora.expression_syntax import translate
from plait_lora.shown import shortened, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 2.0
"""Processor time that the expressions of one adapter may take together."""

_PLAIN = frozenset(string.ascii_letters + string.digits + "_-.")


class MatchTime:
    """The processor time that is left for the expressions of one adapter.

    It is the time of the thread that matches, so that a busy machine refuses no adapter.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._left = seconds

    @property
    def left(self) -> float:
        """Seconds, zero or less if there are none."""
        return self._left

    @contextmanager
    def spend(self) -> Iterator[None]:
        """Count the time of a ``with`` block; TimeoutError if none is left before it."""
        if self._left <= 0:
            raise TimeoutError
        start = time.thread_time()
        try:
            yield
        finally:
            self._left -= time.thread_time() - start


@dataclasses.dataclass(frozen=True)
class Expression:
    """One regular expression of a config. While it matches, other threads run.

    Attributes
    ----------
    text : str
        As ``re`` would get it.
    given : str
        The part of it that stands in the file, for messages.
    field : str
        Of the config, for messages.
    where : str
        Names the adapter in messages.
    """

    text: str
    field: str
    given: str = dataclasses.field(compare=False)
    where: str = dataclasses.field(compare=False)
    _compiled: Any = dataclasses.field(compare=False, repr=False)
    _time: MatchTime = dataclasses.field(compare=False, repr=False)
    _found: dict[tuple[str, str], Any] = dataclasses.field(compare=False, repr=False)

    @classmethod
    def parse(
        cls, text: str, field: str, where: str, time: MatchTime, given: str | None = None
    ) -> Expression:
        """Compile an expression; parameters are those of the class.

        Raises
        ------
        AdapterError
            If it is none, is too large, or no time is left.
        """
        try:
            with time.spend():
                compiled = regex.compile(translate(text), flags=regex.V0, cache_pattern=False)
        except TimeoutError:
            raise _too_slow(given or text, field, where) from None
        except (re.error, regex.error, RecursionError, OverflowError, MemoryError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            msg = (
                f"{where}: {field} has {shown(given or text)}, which is no regular expression that "
                f"can be matched ({shortened(reason)}). Correct adapter_config.json."
            )
            raise AdapterError(msg) from error
        return cls(text, field, given or text, where, compiled, time, {})

    def matches(self, key: str) -> bool:
        """Whether it matches the beginning of ``key``, as ``re.match``."""
        return self._look("match", key) is not None

    def matches_all(self, key: str) -> bool:
        """Whether it matches the whole ``key``, as ``re.fullmatch``."""
        return self._look("fullmatch", key) is not None

    def index(self, key: str) -> tuple[bool, str | None]:
        """Whether ``re.match`` matches ``key``, and what its group ``idx`` then holds."""
        match = self._look("match", key)
        return match is not None, None if match is None else match["idx"]

    def _look(self, method: str, key: str) -> Any:
        if (method, key) not in self._found:
            look: Callable[..., Any] = getattr(self._compiled, method)
            try:
                with self._time.spend():
                    # It counts the time of all threads, of which this one's are a part.
                    match = look(key, timeout=self._time.left, concurrent=True)
            except TimeoutError:
                raise _too_slow(self.given, self.field, self.where) from None
            except (MemoryError, RecursionError) as error:
                raise _too_slow(self.given, self.field, self.where) from error
            self._found[method, key] = match
        return self._found[method, key]


def _too_slow(text: str, field: str, where: str) -> AdapterError:
    return AdapterError(
        f"{where}: matching the expressions of adapter_config.json takes too long, at the latest "
        f"{field} {shown(text)}; those of an adapter may take {SECONDS:g} seconds together. Name "
        "the modules, or write expressions without repeats inside repeats."
    )


def is_plain(pattern: str) -> bool:
    """Whether a pattern is a name: nothing in it is special but dots, which match anything."""
    return bool(pattern) and _PLAIN.issuperset(pattern)


def ends_with_name(key: str, name: str) -> bool:
    r"""Whether ``(.*\.)?(name)$`` matches ``key``, of a ``name`` that ``is_plain``."""
    start = len(key) - len(name)
    if start < 0 or (start > 0 and key[start - 1] != "."):
        return False
    tail = key[start:]
    return tail == name or all(
        have == want or want == "." for have, want in zip(tail, name, strict=True)
    )
