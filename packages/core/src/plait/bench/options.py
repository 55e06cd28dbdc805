"""Types of options that several commands have."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


def at_least_one(text: str) -> int:
    """Read a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        message = f"{text!r} is not a number of at least 1"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def at_least_zero(text: str) -> int:
    """Read a number of at least 0."""
    if not text.isdecimal():
        message = f"{text!r} is not a number of at least 0"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def keywords(text: str) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        read = json.loads(text)
    except ValueError:
        read = None
    if not isinstance(read, dict):
        message = f"""{text!r} is not a JSON object, such as '{{"block_size": 32}}'"""
        raise argparse.ArgumentTypeError(message)
    return read


def split_list(texts: Iterable[str]) -> list[str]:
    """Split a list that is written with commas, with spaces, or with both."""
    parts = (part.strip() for text in texts for part in text.split(","))
    return [part for part in parts if part]


class ListAction(argparse.Action):
    """Reads a list as ``split_list`` does.

    Parameters
    ----------
    item : Callable[[str], Any]
        Reads one item.
    allowed : Sequence[Any] | None
        The only items; None = any.
    """

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        *,
        item: Callable[[str], Any] = str,
        allowed: Sequence[Any] | None = None,
        **keywords: Any,
    ) -> None:
        super().__init__(option_strings, dest, nargs="+", **keywords)
        self._item = item
        self._allowed = allowed

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Put the list on the namespace."""
        try:
            items = [self._item(part) for part in split_list(values)]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        wrong = [item for item in items if self._allowed and item not in self._allowed]
        if wrong or not items:
            allowed = ", ".join(map(str, self._allowed or ()))
            choices = f"invalid choice: {wrong[0]!r} (choose from {allowed})" if wrong else ""
            raise argparse.ArgumentError(self, choices or "the list is empty")
        setattr(namespace, self.dest, items)


def share(text: str) -> float:
    """Read a number above 0 and at most 1."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        message = f"{text!r} is not a number above 0 and at most 1"
        raise argparse.ArgumentTypeError(message)
    return number


def variable(text: str) -> tuple[str, str]:
    """Read the name and the value of an environment variable."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        message = f"{text!r} is not NAME=VALUE"
        raise argparse.ArgumentTypeError(message)
    return name, value
