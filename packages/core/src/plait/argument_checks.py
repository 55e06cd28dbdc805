"""Checks of one argument of an engine: each takes (name, value) and returns it as it is kept."""

from __future__ import annotations

import difflib
import numbers
import os
from collections.abc import Callable, Mapping, Sequence, Set
from os import PathLike
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from plait_kernels.arguments import shown
from plait_kernels.errors import InputError
from plait_sampling.params import GENERATION_DEFAULTS

Check: TypeAlias = Callable[[str, Any], Any]
"""``check(name, value)`` returns the normalised value or raises InputError."""

DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "auto": "auto",
        "float32": "float32",
        "float": "float32",
        "bfloat16": "bfloat16",
        "float16": "float16",
        "half": "float16",
    }
)
"""Names of dtypes, and what each is kept as."""

_MOST_TEXT = 4096
"""Characters of a path or a name."""


def whole(low: int, high: int) -> Check:
    """Accept whole numbers in [low, high]; a bool is none."""

    def check(name: str, value: Any) -> int:
        number = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            text = f"{name} must be an integer from {low} to {high}, got {shown(value)}"
            raise InputError(text)
        return int(value)

    return check


def length_or_auto(name: str, value: Any) -> int:
    """Accept a length in tokens; -1 and "auto" are kept as -1."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return -1
    if isinstance(value, numbers.Integral) and value == -1:
        return -1
    try:
        kept: int = whole(1, 2**31 - 1)(name, value)
    except InputError as error:
        text = f"{error}; -1 or 'auto' is the largest length that fits"
        raise InputError(text) from None
    return kept


def flag(name: str, value: Any) -> bool:
    """Accept True and False."""
    if not isinstance(value, bool | np.bool_):
        text = f"{name} must be a bool, got {shown(value)}"
        raise InputError(text)
    return bool(value)


def share(name: str, value: Any) -> float:
    """Accept a number above 0 and at most 1."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 < value <= 1:
        text = (
            f"{name} must be a number above 0 and at most 1, got {shown(value)}: the share of the "
            "GPU's memory that the engine may use"
        )
        raise InputError(text)
    return float(value)


def text(name: str, value: Any) -> str:
    """Accept a str or a path that the file system can take; it is kept as a str."""
    if not isinstance(value, str | PathLike) or not 0 < len(str(value)) <= _MOST_TEXT:
        message = f"{name} must be a str of 1 to {_MOST_TEXT} characters, got {shown(value)}"
        raise InputError(message)
    kept = str(value)
    try:
        valid = b"\0" not in os.fsencode(kept)
    except UnicodeEncodeError:
        valid = False
    if not valid:
        message = (
            f"{name} has a null character or half of a surrogate pair, got {shown(value)}: no name "
            "of a file or a repository has one"
        )
        raise InputError(message)
    return kept


def token(name: str, value: Any) -> str | bool:
    """Accept a str or a bool; the message does not repeat it."""
    if not isinstance(value, str | bool):
        message = f"{name} must be a str, a bool or None, got {type(value).__name__}"
        raise InputError(message)
    return value


def dtype(name: str, value: Any) -> str:
    """Accept a dtype of torch or its name."""
    # By its module, as torch takes long to import.
    named = isinstance(value, str) or type(value).__module__ == "torch"
    kept = str(value)[:40].removeprefix("torch.") if named else ""
    if kept not in DTYPES:
        message = f"{name}={shown(value)} is not one of {', '.join(map(repr, DTYPES))}"
        raise InputError(message)
    return DTYPES[kept]


def kv_cache_dtype(name: str, value: Any) -> str:
    """Accept what may be the model's dtype."""
    try:
        return dtype(name, value)
    except InputError as error:
        message = f"{error}: the KV cache has the model's dtype; leave it out"
        raise InputError(message) from None


def one_of(*allowed: str, hint: str = "", same: Mapping[str, str] = MappingProxyType({})) -> Check:
    """Accept these texts, and others that say the ``same``."""

    def check(name: str, value: Any) -> str:
        if isinstance(value, str) and value in same:
            return same[value]
        if not isinstance(value, str) or value not in allowed:
            message = f"{name} must be one of {', '.join(map(repr, allowed))}, got {shown(value)}"
            raise InputError(message + hint)
        return value

    return check


def names(name: str, value: Any) -> list[str]:
    """Accept several names."""
    several = isinstance(value, Sequence | Set) and not isinstance(value, str | bytes)
    if not several or not all(isinstance(item, str) and item for item in value):
        message = f"{name} must be a list of names such as ['q_proj'], got {shown(value)}"
        raise InputError(message)
    return list(value)


def kernels(name: str, value: Any) -> str | dict[str, str]:
    """Accept a text or a dict of texts; what they ask for is checked when kernels are chosen."""
    if isinstance(value, str):
        return value
    texts = isinstance(value, Mapping) and all(
        isinstance(item, str) for pair in value.items() for item in pair
    )
    if not texts:
        message = (
            f"{name} must be a str such as 'lora=triton,cpu;*=torch' or a dict of such parts, got "
            f"{shown(value)}"
        )
        raise InputError(message)
    return dict(value)


_READ_ELSEWHERE = frozenset({"bos_token_id", "pad_token_id", "transformers_version"})


def generation_overrides(name: str, value: Any) -> dict[str, Any]:
    """Accept a dict of defaults of sampling; their values are checked with the model's own."""
    if not isinstance(value, Mapping):
        message = f"{name} must be a dict such as {{'temperature': 0.5}}, got {shown(value)}"
        raise InputError(message)
    known = [*GENERATION_DEFAULTS, "eos_token_id"]
    for key, item in value.items():
        neutral = key in _READ_ELSEWHERE or (key == "do_sample" and item is True)
        if key in known or neutral or item is None:
            continue
        near = difflib.get_close_matches(str(key)[:80], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(known)}"
        message = f"{name} has a key that no answer depends on here: {shown(key)}; {hint}"
        raise InputError(message)
    return dict(value)
