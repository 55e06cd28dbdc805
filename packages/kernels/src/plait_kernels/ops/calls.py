"""What an implementation of an op has: the attributes that an engine uses. Imports no torch."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

CALL: Final = "__call__"
"""Stands for calling the implementation itself."""

_OF_OBJECTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "linear": ("prepare", CALL),
        "attention": ("plan", "run"),
        "lora": ("shrink", "expand"),
    }
)
_TEXTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({"linear": ("layout",)})
_OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"lora": ("expand_silu_and_mul",)}
)


def objection(op: str, made: object) -> str:
    """Say why an object cannot be an implementation of an op; empty if it can.

    Parameters
    ----------
    op : str
    made : object
        What a factory returned. It is looked at, not called.
    """
    kind = type(made).__name__
    if isinstance(made, type):
        return f"returned the class {made.__name__}, not an object of it"
    for name in _OF_OBJECTS.get(op, (CALL,)):
        if name == CALL:
            if not callable(made):
                return f"returned {_article(kind)}, which cannot be called"
        elif not callable(getattr(made, name, None)):
            return f"returned {_article(kind)}, which has no method {name!r}"
    for name in _TEXTS.get(op, ()):
        if not isinstance(getattr(made, name, None), str):
            return f"returned {_article(kind)}, which has no text {name!r}"
    for name in _OPTIONAL.get(op, ()):
        if not (getattr(made, name, None) is None or callable(getattr(made, name))):
            return f"returned {_article(kind)}, whose {name!r} cannot be called"
    return ""


def _article(kind: str) -> str:
    return "None" if kind == "NoneType" else f"an object of class {kind}"
