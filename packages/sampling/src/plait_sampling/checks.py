"""Checks of one value: each takes (field, value) and returns the value as it is kept."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from plait_kernels.errors import InputError

Check: TypeAlias = Callable[[str, Any], Any]
"""``check(field, value)`` returns the normalised value or raises InputError."""


def refuse(field: str, value: object, allowed: str, remedy: str) -> InputError:
    """Make the error of a value that a field does not take."""
    return InputError(f"{field} cannot be {value!r}; allowed: {allowed}. {remedy}")


def number(low: float, high: float, *, above: bool = False) -> Check:
    """Accept real numbers in [low, high], or (low, high] with ``above``."""
    top = "" if math.isinf(high) else f" and at most {high:g}"
    allowed = f"a finite number {'above' if above else 'of at least'} {low:g}{top}"

    def check(field: str, value: Any) -> float:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not real or not math.isfinite(value) or not low <= value <= high:
            raise refuse(field, value, allowed, "Pass a number in that range, or leave it out.")
        if above and value == low:
            raise refuse(field, value, allowed, "Pass a number in that range, or leave it out.")
        return float(value)

    return check


def integer(low: int, high: int | None = None) -> Check:
    """Accept whole numbers in [low, high]."""
    allowed = f"a whole number of at least {low}" + ("" if high is None else f", at most {high}")

    def check(field: str, value: Any) -> int:
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not whole or value < low or (high is not None and value > high):
            raise refuse(field, value, allowed, "Pass one in that range, or leave it out.")
        return int(value)

    return check


def optional(check: Check) -> Check:
    """Accept None as well."""

    def accept(field: str, value: Any) -> Any:
        return None if value is None else check(field, value)

    return accept


def flag(field: str, value: Any) -> bool:
    """Accept True and False."""
    if not isinstance(value, bool):
        raise refuse(field, value, "True or False", "Pass one of them.")
    return value


def logprob_count(field: str, value: Any) -> int | None:
    """Accept None, a count, -1 for the whole vocabulary, and True for 1."""
    if value is None or value is False:
        return None
    if value is True:
        return 1
    count: int = integer(-1)(field, value)
    return count


def stop_strings(field: str, value: Any) -> list[str]:
    """Accept None, one string, or several."""
    strings = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(strings, Iterable):
        raise refuse(field, value, "a string or a list of strings", "Pass the text to stop at.")
    strings = list(strings)
    if not all(isinstance(s, str) and s for s in strings):
        allowed = "a string or a list of strings, none of them empty"
        raise refuse(field, value, allowed, "Remove what is not a string or is empty.")
    return strings


def token_ids(field: str, value: Any) -> list[int]:
    """Accept None or whole numbers from 0 on."""
    if value is None:
        return []
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise refuse(field, value, "a list of token ids", "Pass ids of the model's vocabulary.")
    return [integer(0)(f"{field}[{place}]", token) for place, token in enumerate(value)]


def allowed_token_ids(field: str, value: Any) -> list[int] | None:
    """Accept None or at least one token id."""
    if value is None:
        return None
    ids = token_ids(field, value)
    if not ids:
        raise refuse(field, value, "at least one token id", "Leave it out to allow every token.")
    return sorted(set(ids))


BIAS_LIMIT = 1e30
"""Beyond this, a biased logit divided by a small temperature would overflow float32."""


def logit_bias(field: str, value: Any) -> dict[int, float] | None:
    """Accept None or {token id: bias}; ids may be strings, as JSON has them."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise refuse(field, value, "a dict of token id to bias", "Pass {token_id: bias, …}.")
    bias: dict[int, float] = {}
    for key, amount in value.items():
        digits = isinstance(key, str) and key.isascii() and key.isdigit()
        token = integer(0)(f"a token id of {field}", int(key) if digits else key)
        bias[token] = number(-BIAS_LIMIT, BIAS_LIMIT)(f"{field}[{token}]", amount)
    return bias or None


def unsupported(field: str, value: Any) -> None:
    """Accept None and what is empty only."""
    if value is None or value == [] or value == {}:
        return
    message = (
        f"{field} is not supported in this version: got {value!r}, allowed: None. Leave it out."
    )
    raise InputError(message)
