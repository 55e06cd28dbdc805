"""Checks of one value: each takes (field, value) and returns the value as it is kept."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, TypeAlias

import numpy as np

from plait_kernels.arguments import shown
from plait_kernels.errors import InputError

Check: TypeAlias = Callable[[str, Any], Any]
"""``check(field, value)`` returns the normalised value or raises InputError."""

MOST = 2**63 - 1
"""The largest whole number that a row of the device's tables can hold."""
FLOAT32_TINY = float(np.finfo(np.float32).tiny)
GREEDY_BELOW = 1e-5
"""A temperature below this is greedy and is kept as 0."""
MAX_IDS = 2**20
"""Token ids in one field; no vocabulary has as many."""
MAX_STOPS = 2**14
MAX_STOP_CHARACTERS = 2**20
"""Characters of all stop strings together."""
BIAS_LIMIT = 1e20
"""A logit with this bias stays finite in float32 after any penalty and any temperature."""
PENALTY_LIMIT = 1e6
"""The largest repetition penalty, and 1 over the smallest: for the same reason."""


def refuse(field: str, value: object, allowed: str, remedy: str) -> InputError:
    """Make the error of a value that a field does not take."""
    return InputError(f"{field} cannot be {shown(value)}; allowed: {allowed}. {remedy}")


def number(low: float, high: float, *, above: bool = False) -> Check:
    """Accept real numbers in [low, high], or (low, high] with ``above``."""
    allowed = f"a number {'above' if above else 'of at least'} {low:g} and at most {high:g}"

    def check(field: str, value: Any) -> float:
        real = _float(value)
        if not low <= real <= high or (above and real == low):
            raise refuse(field, value, allowed, "Pass a number in that range, or leave it out.")
        # A float64 may be too small for the float32 that the device computes with.
        return max(real, FLOAT32_TINY) if above else real

    return check


def _float(value: Any) -> float:
    """Return a real number as a float; NaN, which is in no range, for anything else."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (OverflowError, ValueError):
        return math.nan


def clamp(value: Any, limit: float) -> Any:
    """Bring a number into [-limit, limit]; leave anything else to its check."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or value != value:
        return value
    return min(limit, max(-limit, value))


def temperature(field: str, value: Any) -> float:
    """Accept a number from 0 to 2."""
    kept: float = number(0.0, 2.0)(field, value)
    return 0.0 if kept < GREEDY_BELOW else kept


def integer(low: int, high: int = MOST) -> Check:
    """Accept whole numbers in [low, high]."""
    allowed = f"a whole number from {low} to {high}"

    def check(field: str, value: Any) -> int:
        if not is_integer(value) or not low <= value <= high:
            raise refuse(field, value, allowed, "Pass one in that range, or leave it out.")
        return int(value)

    return check


def is_integer(value: object) -> bool:
    """Return whether a value is a whole number: of Python's or NumPy's, and no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def top_k(field: str, value: Any) -> int:
    """Accept a count; 0 and -1 are all tokens."""
    kept: int = integer(-1)(field, value)
    return max(0, kept)


def seed(field: str, value: Any) -> int | None:
    """Accept None or a signed number of 64 bits; vLLM's users write -1 for None."""
    if value is None:
        return None
    kept: int = integer(-(2**63))(field, value)
    return None if kept == -1 else kept


def optional(check: Check) -> Check:
    """Accept None as well."""

    def accept(field: str, value: Any) -> Any:
        return None if value is None else check(field, value)

    return accept


def flag(field: str, value: Any) -> bool:
    """Accept True and False."""
    if not isinstance(value, bool | np.bool_):
        raise refuse(field, value, "True or False", "Pass one of them.")
    return bool(value)


def logprob_count(field: str, value: Any) -> int | None:
    """Accept None, a count, -1 for the whole vocabulary, and True for 1."""
    if value is None or value is False:
        return None
    if value is True:
        return 1
    count: int = integer(-1)(field, value)
    return count


def _entries(value: Any, most: int) -> list[Any] | None:
    """Return what is in a list, or ``most`` and one more of it; None of what is no list."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return None
    try:
        return list(islice(value, most + 1))
    except TypeError:  # an array without dimensions
        return None


def stop_strings(field: str, value: Any) -> list[str]:
    """Accept None, one string, or several."""
    given = [] if value is None else [value] if isinstance(value, str) else value
    strings = _entries(given, MAX_STOPS)
    if strings is None:
        raise refuse(field, value, "a string or a list of strings", "Pass the text to stop at.")
    if not all(isinstance(s, str) and s for s in strings):
        allowed = "a string or a list of strings, none of them empty"
        raise refuse(field, value, allowed, "Remove what is not a string or is empty.")
    if len(strings) > MAX_STOPS or sum(map(len, strings)) > MAX_STOP_CHARACTERS:
        allowed = f"at most {MAX_STOPS} strings of {MAX_STOP_CHARACTERS} characters in all"
        raise refuse(field, value, allowed, "Pass fewer or shorter ones.")
    return strings


def token_ids(field: str, value: Any) -> list[int]:
    """Accept None or whole numbers from 0 on; a number that comes again is dropped."""
    if value is None:
        return []
    ids = _entries(value, MAX_IDS)
    if ids is None:
        raise refuse(field, value, "a list of token ids", "Pass ids of the model's vocabulary.")
    if len(ids) > MAX_IDS:
        raise refuse(field, value, f"at most {MAX_IDS} token ids", "Pass fewer.")
    for place, token in enumerate(ids):
        if not is_integer(token) or not 0 <= token <= MOST:
            integer(0)(f"{field}[{place}]", token)
    return list(dict.fromkeys(map(int, ids)))


def allowed_token_ids(field: str, value: Any) -> list[int] | None:
    """Accept None or at least one token id."""
    if value is None:
        return None
    ids = token_ids(field, value)
    if not ids:
        raise refuse(field, value, "at least one token id", "Leave it out to allow every token.")
    return sorted(ids)


def logit_bias(field: str, value: Any) -> dict[int, float] | None:
    """Accept None or {token id: bias}; ids may be strings, as JSON has them."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise refuse(field, value, "a dict of token id to bias", "Pass {token_id: bias, …}.")
    if len(value) > MAX_IDS:
        raise refuse(field, value, f"at most {MAX_IDS} token ids", "Pass fewer.")
    amount_of = number(-BIAS_LIMIT, BIAS_LIMIT)
    bias: dict[int, float] = {}
    for key, amount in value.items():
        digits = isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 20
        token = integer(0)(f"a token id of {field}", int(key) if digits else key)
        bias[token] = amount_of(f"{field}[{token}]", amount)
    return bias or None
