"""Typed reading of fields that somebody else wrote: what is wrong is said once, by name."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from plait_kernels.errors import ModelError
from plait_models.files.opening import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMITS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "vocab_size": (1, 2**24),
        "hidden_size": (1, 2**20),
        "intermediate_size": (1, 2**22),
        "num_hidden_layers": (1, 10_000),
        "num_attention_heads": (1, 2**16),
        "num_key_value_heads": (1, 2**16),
        "head_dim": (2, 2**14),
        "max_position_embeddings": (1, 2**27),
    }
)
"""The smallest and the largest that each size may be. Known models stay a tenth below."""


class Fields:
    """The fields of one object of a file.

    Parameters
    ----------
    values : Mapping[str, Any]
    origin : str
        The file, for messages.
    remedy : str
        What to do about a wrong value.
    prefix : str
        What stands before a name in messages.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        origin: str,
        remedy: str = "Repair the field or fetch the file again",
        prefix: str = "",
    ) -> None:
        self._values = values
        self.origin = origin
        self._remedy = remedy
        self._prefix = prefix

    def refuse(self, name: str, allowed: str) -> NoReturn:
        """Raise the error that says what a field is and what it may be."""
        value = self._values.get(name)
        got = "missing" if name not in self._values else shortened(value)
        message = (
            f"{self.origin}: {self._prefix}{name} is {got}; allowed: {allowed}. {self._remedy}"
        )
        raise ModelError(message)

    def integer(self, name: str, low: int, high: int, *, nullable: bool = False) -> int | None:
        """Check a whole number between two bounds; None: it is not there, or null."""
        value = self._values.get(name)
        if name not in self._values or (nullable and value is None):
            return None
        # In Python True is an integer.
        if type(value) is not int or not low <= value <= high:
            self.refuse(name, f"an integer from {low} to {high}")
        return value

    def number(
        self, name: str, low: float, high: float, *, nullable: bool = False, over: bool = False
    ) -> float | None:
        """Check a finite number between two bounds; ``over``: the lower one is not allowed."""
        value = self._values.get(name)
        if name not in self._values or (nullable and value is None):
            return None
        # In Python True is an integer.
        if not isinstance(value, int | float) or isinstance(value, bool):
            number = math.nan
        else:
            number = float(value) if abs(value) < 2**1000 else math.inf
        # Neither is between two bounds.
        if not low <= number <= high or math.isinf(number) or (over and number == low):
            bound = f"above {low:g} and at most" if over else f"from {low:g} to"
            self.refuse(name, f"a number {bound} {high:g}")
        return number

    def flag(self, name: str) -> bool | None:
        """Check a boolean; None: it is not there, or null."""
        value = self._values.get(name)
        if value is not None and type(value) is not bool:
            self.refuse(name, "true or false")
        return value

    def text(self, name: str, *, nullable: bool = False) -> str | None:
        """Check a text; None: it is not there, or null."""
        value = self._values.get(name)
        if name not in self._values or (nullable and value is None):
            return None
        if not isinstance(value, str):
            self.refuse(name, "a text")
        return value

    def fields(self, name: str) -> Fields | None:
        """Check an object and give its fields; None: it is not there, or null."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.refuse(name, "an object or null")
        return Fields(value, self.origin, self._remedy, f"{self._prefix}{name}.")
