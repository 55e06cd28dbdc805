"""What happens to a keyword of vLLM's that nothing here acts on."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from plait_kernels.arguments import asks_for_nothing, shown
from plait_kernels.errors import InputError

Kind: TypeAlias = type | tuple[Any, ...]
"""``bool``, ``int``, ``float``, ``str``, ``list``, ``dict`` or ``object``; or the only values."""


class Rule(Protocol):
    """What happens to a keyword."""

    @property
    def why(self) -> str:
        """A reason, for messages and the documentation."""

    def allowed(self) -> str:
        """Name the values that pass, for messages and the documentation."""

    def check(self, name: str, value: Any) -> None:
        """Raise InputError for a value that does not pass."""


@dataclass(frozen=True)
class WithoutEffect:
    """A keyword that changes no answer, no limit and no error, whatever it says.

    Attributes
    ----------
    why : str
    kind : Kind
        What vLLM takes.
    """

    why: str
    kind: Kind

    def allowed(self) -> str:
        """Name the values that pass."""
        if isinstance(self.kind, tuple):
            return ", ".join(f"`{value!r}`" for value in self.kind)
        return "any value" if self.kind is object else f"any {self.kind.__name__}"

    def check(self, name: str, value: Any) -> None:
        """Raise InputError for a value that vLLM would not take either."""
        if asks_for_nothing(value) or _is(self.kind, value):
            return
        text = (
            f"{name}={shown(value)} is not a value of this keyword: allowed: "
            f"{self.allowed().replace('`', '')}, or None. It has no effect here ({self.why}): "
            "leave it out"
        )
        raise InputError(text)


@dataclass(frozen=True)
class Refused:
    """A keyword that is refused when it asks for something.

    Attributes
    ----------
    why : str
    neutral : tuple
        Values that ask for nothing, beside None, False and what is empty.
    """

    why: str
    neutral: tuple[Any, ...] = ()

    def allowed(self) -> str:
        """Name the values that pass."""
        return ", ".join(f"`{value!r}`" for value in self.neutral or (None,))

    def check(self, name: str, value: Any) -> None:
        """Raise InputError for a value that asks for something."""
        if asks_for_nothing(value, self.neutral):
            return
        text = (
            f"{name}={shown(value)} is refused: {self.why}; leave it out "
            f"(allowed: {self.allowed().replace('`', '')})"
        )
        raise InputError(text)


@dataclass(frozen=True)
class NoItems:
    """A keyword that holds numbers by name, refused where one of them is not 0."""

    why: str

    def allowed(self) -> str:
        """Name the values that pass."""
        return "`None`, 0 for every name"

    def check(self, name: str, value: Any) -> None:
        """Raise InputError for a number that is not 0."""
        if isinstance(value, Mapping):
            left = {key: item for key, item in value.items() if not _is_zero(item)}
            value = left or None
        Refused(self.why).check(name, value)


@dataclass(frozen=True)
class Settings:
    """A keyword that holds other keywords by name, each with a rule of its own.

    Attributes
    ----------
    why : str
        Of keywords that have no rule.
    rules : Mapping[str, Rule]
    """

    why: str
    rules: Mapping[str, Rule]

    def allowed(self) -> str:
        """Name the values that pass."""
        inside = "; ".join(f"`{name}`: {rule.allowed()}" for name, rule in self.rules.items())
        return f"`None`; {inside}"

    def check(self, name: str, value: Any) -> None:
        """Raise InputError for a keyword that does not pass."""
        if asks_for_nothing(value):
            return
        inside = value if isinstance(value, Mapping) else getattr(value, "__dict__", None)
        if inside is None:
            Refused(self.why).check(name, value)
        for key, item in dict(inside or {}).items():
            self.rules.get(str(key), Refused(self.why)).check(f"{name}[{shown(key)}]", item)


def without_effect(why: str, **kinds: Kind) -> dict[str, Rule]:
    """Make rules of keywords that change nothing, for the same reason."""
    return {name: WithoutEffect(why, kind) for name, kind in kinds.items()}


def refused(why: str, **neutral: Any) -> dict[str, Rule]:
    """Make rules of keywords that are refused, for the same reason.

    Parameters
    ----------
    why : str
    **neutral
        By keyword: the value that asks for nothing, or a tuple of such values.
    """
    return {
        name: Refused(why, value if isinstance(value, tuple) else () if value is None else (value,))
        for name, value in neutral.items()
    }


def _is(kind: Kind, value: Any) -> bool:
    if isinstance(kind, tuple):
        return asks_for_nothing(value, kind)
    if kind is object:
        return True
    truth = isinstance(value, bool | np.bool_)
    if kind is bool:
        return truth
    if kind is int:
        return isinstance(value, numbers.Integral) and not truth
    if kind is float:
        return isinstance(value, numbers.Real) and not truth
    if kind is list:
        return isinstance(value, Sequence | Set) and not isinstance(value, str)
    if kind is dict:
        return isinstance(value, Mapping)
    return isinstance(value, kind)


def _is_zero(item: Any) -> bool:
    if isinstance(item, Mapping):
        item = item.get("count")
    return asks_for_nothing(item, (0,))
