"""What calls, filters and operators of a chat template may make, checked before they make it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any

from jinja2 import Environment
from jinja2.exceptions import SecurityError
from jinja2.nodes import EvalContext
from jinja2.runtime import Context

from plait.template_budget import MAX_BITS

if TYPE_CHECKING:
    from plait.template_budget import Budget

MAX_WIDTH = 2**16
"""What padding, indents, batches and the like may be told."""

_WIDE_FILTERS = frozenset(
    ("batch", "center", "indent", "round", "slice", "truncate", "wordwrap", "tojson", "urlize")
)
_WIDE_METHODS = frozenset(("center", "expandtabs", "ljust", "rjust", "to_bytes", "zfill"))
_CODECS = frozenset(("ascii", "latin-1", "utf-16", "utf-32", "utf-8", "utf8"))
"""Codecs that take a time in proportion to the text."""

_WIDTH = re.compile(r"\d{5,}|%[-+ #0]*\*|%\([^)]*\)[-+ #0]*\*")
_NESTED = re.compile(r"\{[^{}]*:[^{}]*\{")


def check_call(
    budget: Budget, call: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Check a call of a function or a method; give its arguments, iterators as lists.

    Raises
    ------
    TooMuchError, SecurityError
        It would make too much.
    """
    # The sandbox has put a function of its own before str.format.
    call = getattr(call, "__wrapped__", call)
    owner, name = getattr(call, "__self__", None), getattr(call, "__name__", "")
    if name in ("generate_lorem_ipsum", "_strftime_now"):
        _check_widths(budget, name, args, kwargs, 100)
    if not isinstance(owner, str | bytes | int):
        return args
    if name in _WIDE_METHODS:
        _check_widths(budget, name, args, kwargs)
        if name == "expandtabs" and isinstance(owner, str | bytes):
            # Every tab may become as many spaces.
            widest = max([8, *(arg for arg in (*args, *kwargs.values()) if isinstance(arg, int))])
            budget.allow(len(owner) * widest)
    elif isinstance(owner, str | bytes):
        if name == "replace":
            _check_replace(budget, owner, args)
        elif name == "join" and args:
            parts = _listed(budget, args[0])
            budget.allow(_joined_length(budget, owner, parts))
            return (parts, *args[1:])
        elif name == "translate" and args:
            size = budget.measure(dict(args[0]) if isinstance(args[0], Mapping) else None)[0]
            budget.allow(len(owner) * min(size, MAX_WIDTH))
        elif name in ("format", "format_map") and isinstance(owner, str):
            _check_format(budget, owner, [*args, *kwargs.values()])
        elif name in ("encode", "decode"):
            _check_codec([*args[:1], *(kwargs[key] for key in kwargs if key == "encoding")])
        elif name == "striptags":
            _check_markup(budget, owner)
    return args


def check_filter(
    budget: Budget, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Check a call of a filter; give its arguments, iterators as lists where all are needed.

    Raises
    ------
    TooMuchError, SecurityError
        It would make too much.
    """
    has_more = bool(args) and isinstance(args[0], Context | EvalContext | Environment)
    first, given = args[: int(has_more)], args[int(has_more) :]
    value, rest = (given[0], given[1:]) if given else (None, ())
    if isinstance(value, Sized):
        budget.spend(len(value) // 64)
    if name in _WIDE_FILTERS:
        _check_widths(budget, name, rest, kwargs)
    if name in ("indent", "tojson"):
        widths = [*rest, *kwargs.values()]
        width = max(
            [4, *(w if type(w) is int else len(w) for w in widths if type(w) in (int, str))]
        )
        size, depth = budget.measure(value)
        lines = str(value).count("\n") + 1 if isinstance(value, str) else 0
        budget.allow(size + width * (lines if name == "indent" else size * depth // 4))
    elif name == "replace" and isinstance(value, str):
        _check_replace(budget, value, [*rest, *kwargs.values()])
    elif name == "format":
        _check_format(budget, str(value), [*rest, *kwargs.values()])
    elif name in ("join", "sum"):
        value = _listed(budget, value)
        if name == "join":
            separator = next((d for d in [*rest, *kwargs.values()] if isinstance(d, str)), "")
            budget.allow(_joined_length(budget, separator, value))
        elif any(not isinstance(part, int | float) for part in (*rest[1:], kwargs.get("start", 0))):
            # Sums of lists are made one after the other.
            budget.allow(len(value) * budget.measure(value)[0])
        return (*first, value, *rest)
    elif name == "striptags" and isinstance(value, str):
        _check_markup(budget, value)
    elif name == "wordwrap" and isinstance(value, str):
        # What is left of a long word is copied at every break.
        longest = max(map(len, value.split()), default=0)
        budget.allow(len(value) + longest * longest // 4)
    elif name in ("pprint", "urlize"):
        # Python code that looks at every part, again and again.
        budget.allow(64 * budget.measure(value)[0])
    elif name in ("string", "upper", "escape", "e", "forceescape", "urlencode"):
        budget.allow(6 * budget.measure(value)[0])
    return args


def check_operator(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Check an operator before it is computed.

    Raises
    ------
    TooMuchError, SecurityError
        It would make too much.
    """
    if operator == "%" and isinstance(left, str | bytes):
        values = list(right) if isinstance(right, tuple) else [right]
        text = left if isinstance(left, str) else left.decode("latin-1")
        _check_format(budget, text, values)
    elif operator == "*":
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())
        for values, times in ((left, right), (right, left)):
            if isinstance(values, str | bytes | list | tuple) and isinstance(times, int):
                budget.allow(len(values) * max(0, times))
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int) and right > 0:
            _check_bits(left.bit_length() * right)
    elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
        budget.allow(len(left) + len(right))


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        message = f"a whole number would have {bits} bits; allowed: at most {MAX_BITS}"
        raise SecurityError(message)


def _check_widths(
    budget: Budget,
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    most: int = MAX_WIDTH,
) -> None:
    for given in (*args, *kwargs.values()):
        is_long = isinstance(given, str | bytes) and len(given) > MAX_WIDTH
        if is_long or (isinstance(given, int) and abs(given) > most):
            message = f"{name} is given {budget.measure(given)[0]} digits or characters; too many"
            raise SecurityError(message)
        if name == "_strftime_now" and isinstance(given, str) and re.search(r"\d{3,}", given):
            message = "a width in the format of strftime_now is too large"
            raise SecurityError(message)


def _check_replace(budget: Budget, text: Any, args: Any) -> None:
    if len(args) < 2 or not all(isinstance(arg, str | bytes) for arg in args[:2]):
        return
    old, new = args[0], args[1]
    if isinstance(old, str) is isinstance(text, str):
        budget.allow(len(text) + text.count(old) * len(new))


def _check_format(budget: Budget, text: str, values: list[Any]) -> None:
    if _WIDTH.search(text) or _NESTED.search(text):
        message = "a format string with a width that is too large, or computed"
        raise SecurityError(message)
    largest = max((budget.measure(value)[0] for value in values), default=0)
    places = text.count("%") + text.count("{")
    # 10_000 is the largest width that passes above.
    budget.allow(len(text) + min(places, len(text)) * largest)
    if places > 1000:
        budget.allow(places * 10_000)


def _check_codec(names: list[Any]) -> None:
    for name in names:
        if not isinstance(name, str) or name.lower().replace("_", "-") not in _CODECS:
            message = f"a codec that is not served; allowed: {', '.join(sorted(_CODECS))}"
            raise SecurityError(message)


def _check_markup(budget: Budget, text: Any) -> None:
    # All that follows is copied at every comment.
    budget.allow(len(text) * (1 + str(text).count("<!--")))


def _listed(budget: Budget, values: Any) -> Any:
    if isinstance(values, Sized) or not isinstance(values, Iterable):
        return values
    listed = []
    for value in values:
        budget.spend()
        listed.append(value)
    return listed


def _joined_length(budget: Budget, separator: Any, parts: Any) -> int:
    if not isinstance(parts, Sized) or not isinstance(parts, Iterable):
        return 0
    budget.spend(len(parts) // 4)
    return sum(budget.measure(part)[0] + len(separator) for part in parts)
