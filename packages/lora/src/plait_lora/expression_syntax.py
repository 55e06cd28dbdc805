"""Python's regular expressions, written again for the package ``regex``.

An expression is read by the parser of ``re``, so what is one and what it means is what PEFT finds;
then it is written in the part of the syntax that both packages understand alike. ``regex`` on its
own would take some expressions for its extensions (``{e<=1}``, ``[[:alpha:]]``), and it copies
what is repeated at least n times n times when it compiles, which is bounded here.
"""

from __future__ import annotations

import re

# Public until Python 3.11 as sre_parse, and the same ever since.
from re import _parser  # type: ignore[attr-defined]
from typing import Any

MAX_LENGTH = 65_536
"""Characters of an expression. The names of all modules of a large model fit."""

MAX_SIZE = 100_000
"""Nodes of an expression whose repeats are written out as often as they must occur."""

_POSITIONS = {
    "AT_BEGINNING": "^",
    "AT_BEGINNING_STRING": r"\A",
    "AT_BOUNDARY": r"\b",
    "AT_NON_BOUNDARY": r"\B",
    "AT_END": "$",
    "AT_END_STRING": r"\Z",
}
_CATEGORIES = {
    "CATEGORY_DIGIT": r"\d",
    "CATEGORY_NOT_DIGIT": r"\D",
    "CATEGORY_SPACE": r"\s",
    "CATEGORY_NOT_SPACE": r"\S",
    "CATEGORY_WORD": r"\w",
    "CATEGORY_NOT_WORD": r"\W",
}
_SCOPED = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s"}
_LAZINESS = {"MAX_REPEAT": "", "MIN_REPEAT": "?", "POSSESSIVE_REPEAT": "+"}


def translate(expression: str) -> str:
    """Write an expression so that ``regex`` (version 0) matches as ``re`` does.

    Groups keep their numbers; of names only ``idx`` is kept.

    Raises
    ------
    re.error
        If it is no regular expression, or too large.
    RecursionError
        If it is nested too deeply.
    """
    if len(expression) > MAX_LENGTH:
        msg = f"it has {len(expression)} characters, and at most {MAX_LENGTH} are read"
        raise re.error(msg)
    tree = _parser.parse(expression)
    flags = tree.state.flags
    groups = {number: name for name, number in tree.state.groupdict.items()}
    ascii_only = "(?a)" if flags & re.ASCII else ""
    return f"{ascii_only}(?{_letters(flags)}:{_Writer(groups).sequence(tree)[0]})"


class _Writer:
    """Writes nodes of ``re``'s parser; each method returns the text and its size."""

    def __init__(self, group_names: dict[int, str]) -> None:
        self._group_names = group_names

    def sequence(self, nodes: Any) -> tuple[str, int]:
        parts = [self._node(str(kind), value) for kind, value in nodes]
        return "".join(text for text, _ in parts), _checked(1 + sum(size for _, size in parts))

    def _node(self, kind: str, value: Any) -> tuple[str, int]:
        match kind:
            case "LITERAL":
                return _literal(value), 1
            case "NOT_LITERAL":
                return _none_of(_literal(value)), 3
            case "ANY":
                return ".", 1
            case "AT":
                return _POSITIONS[str(value)], 1
            case "IN":
                return _set(value), 3 + len(value)
            case "FAILURE":
                return "(?!)", 1
            case "BRANCH":
                parts = [self.sequence(branch) for branch in value[1]]
                size = _checked(sum(size for _, size in parts))
                return f"(?:{'|'.join(text for text, _ in parts)})", size
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                return self._repeat(_LAZINESS[kind], *value)
            case "SUBPATTERN":
                return self._group(*value)
            case "ATOMIC_GROUP":
                return self._wrapped("(?>", value)
            case "ASSERT" | "ASSERT_NOT":
                return self._look(kind, *value)
            case "GROUPREF":
                return f"(?:\\{value})", 1
            case "GROUPREF_EXISTS":
                return self._conditional(*value)
            case _:
                msg = f"{kind} is not supported"
                raise re.error(msg)

    def _wrapped(self, opening: str, nodes: Any) -> tuple[str, int]:
        text, size = self.sequence(nodes)
        return f"{opening}{text})", size

    def _repeat(self, laziness: str, least: Any, most: Any, nodes: Any) -> tuple[str, int]:
        text, size = self.sequence(nodes)
        highest = "" if most == _parser.MAXREPEAT else int(most)
        count = f"{{{int(least)},{highest}}}"
        return f"(?:{text}){count}{laziness}", _checked(size * (int(least) + 1))

    def _group(self, number: int | None, add: int, remove: int, nodes: Any) -> tuple[str, int]:
        if (add | remove) & re.ASCII or add & re.UNICODE:
            msg = "the flags a and u for a part of an expression are not supported"
            raise re.error(msg)
        opening = ""
        if number is not None:
            opening = "(?P<idx>" if self._group_names.get(number) == "idx" else "("
        on, off = _letters(add), _letters(remove)
        if on or off:
            text, size = self._wrapped(f"(?{on}{'-' if off else ''}{off}:", nodes)
            return (f"{opening}{text})" if opening else text), size
        return self._wrapped(opening or "(?:", nodes)

    def _look(self, kind: str, direction: int, nodes: Any) -> tuple[str, int]:
        if direction < 0 and len(set(nodes.getwidth())) > 1:
            msg = "look-behind requires fixed-width pattern"
            raise re.error(msg)
        behind = "<" if direction < 0 else ""
        return self._wrapped(f"(?{behind}{'=' if kind == 'ASSERT' else '!'}", nodes)

    def _conditional(self, number: int, then: Any, otherwise: Any) -> tuple[str, int]:
        text, size = self.sequence(then)
        if otherwise is None:
            return f"(?({number}){text})", size
        other, more = self.sequence(otherwise)
        return f"(?({number}){text}|{other})", size + more


def _letters(flags: int) -> str:
    return "".join(letter for flag, letter in _SCOPED.items() if flags & flag)


def _literal(code: int) -> str:
    return f"\\U{code:08x}"


def _set(members: Any) -> str:
    negated = str(members[0][0]) == "NEGATE"
    text = "".join(_member(str(kind), value) for kind, value in members[negated:])
    return _none_of(text) if negated else f"[{text}]"


def _none_of(members: str) -> str:
    # Said like this because regex is mistaken about alternatives like "[^a]|[^b]".
    return f"(?:(?![{members}])(?s:.))"


def _member(kind: str, value: Any) -> str:
    match kind:
        case "LITERAL":
            return _literal(value)
        case "RANGE":
            return f"{_literal(value[0])}-{_literal(value[1])}"
        case _:
            return _CATEGORIES[str(value)]


def _checked(size: int) -> int:
    if size > MAX_SIZE:
        msg = f"its repeats must occur more than {MAX_SIZE} times in all"
        raise re.error(msg)
    return size
