"""What one rendering of a chat template may cost: steps, characters, seconds.

Templates come with models and are programs. Their loops, their strings and the trees that they
build are charged to a budget here, before they are made.
"""

from __future__ import annotations

import time
from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from typing import Any, NoReturn

from jinja2.exceptions import TemplateRuntimeError
from jinja2.utils import Namespace

STEPS = 2**19
"""Loop turns, calls and operations of one rendering; a long conversation takes some 10 000."""

CHARACTERS = 2**22
"""Length of one value or of the prompt, beyond four times what was put in."""

MAX_BITS = 2**16
"""Bits of a whole number."""

SECONDS = 20.0
"""For what single steps take; a second wall behind the count of steps."""

_PER_STEP = 64
"""Characters that cost as much as a step."""

_CONTAINERS = (list, tuple, set, frozenset, KeysView, ValuesView, ItemsView, Mapping)


class TooMuchError(TemplateRuntimeError):
    """A template that does not come to an end within its budget."""


class Budget:
    """The costs of one rendering so far.

    Parameters
    ----------
    inputs : Any
        What the template is given: plain data. The larger it is, the more may be spent.
    """

    def __init__(self, inputs: Any = None) -> None:
        # By id, with the object itself so that the id stays its own: size and depth of a tree.
        self._sizes: dict[int, tuple[Any, int, int]] = {}
        self._deadline = time.monotonic() + SECONDS
        self.steps = self.characters = 2**62
        size, _ = self.measure(inputs)
        self.steps = STEPS + size
        self.characters = CHARACTERS + 4 * size

    def spend(self, steps: int = 1) -> None:
        """Take steps off the budget."""
        self.steps -= steps
        if self.steps < 0:
            _refuse(f"takes more than {STEPS} steps")
        if time.monotonic() > self._deadline:
            _refuse(f"takes more than {SECONDS:g} seconds")

    def allow(self, characters: int) -> None:
        """Check the length of a value that is about to be made, and pay for it."""
        if characters > self.characters:
            _refuse(f"makes a value of {characters} characters; allowed: {self.characters}")
        self.spend(1 + characters // _PER_STEP)

    def check(self, value: Any) -> Any:
        """Check a value that was made, pay for it, and give it back."""
        if isinstance(value, str | bytes):
            self.allow(len(value))
        elif isinstance(value, _CONTAINERS):
            self.allow(self.measure(value)[0])
        elif isinstance(value, int) and value.bit_length() > MAX_BITS:
            _refuse(f"makes a whole number of {value.bit_length()} bits; allowed: {MAX_BITS}")
        else:
            self.spend()
        return value

    def measure(self, value: Any) -> tuple[int, int]:
        """Tell about how long a value is when it is written, and how deep it is nested.

        A part that is there twice counts twice: it would be written twice.
        """
        if isinstance(value, str | bytes):
            return len(value) + 2, 0
        if isinstance(value, bool) or value is None:
            return 5, 0
        if isinstance(value, int):
            return 1 + value.bit_length() // 3, 0
        if isinstance(value, Namespace):
            # It changes, so nothing is remembered of it.
            self.spend()
            return self._sum(object.__getattribute__(value, "_Namespace__attrs"))
        if not isinstance(value, _CONTAINERS):
            return 32, 0
        known = self._sizes.get(id(value))
        if known is None:
            size, depth = self._sum(value)
            if isinstance(value, list | tuple | dict):
                self._sizes[id(value)] = (value, size, depth)
            return size, depth
        return known[1:]

    def _sum(self, value: Any) -> tuple[int, int]:
        self.spend(1 + len(value) // 4)
        parts = [*value, *value.values()] if isinstance(value, Mapping) else value
        size, depth = 2, 0
        for part in parts:
            if isinstance(part, Namespace) and not isinstance(value, dict):
                _refuse("puts a namespace into a list")
            part_size, part_depth = self.measure(part)
            size, depth = size + part_size + 2, max(depth, part_depth)
            if size > self.characters:
                _refuse(f"makes a value of more than {self.characters} characters")
        return size, depth + 1


def _refuse(what: str) -> NoReturn:
    message = f"it {what}. Use a template that does less, or a shorter conversation"
    raise TooMuchError(message)
