"""Types of options that several commands have."""

from __future__ import annotations

import argparse
import json
from typing import Any


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


def at_least_ones(text: str) -> tuple[int, ...]:
    """Read numbers of at least 1, separated by commas."""
    return tuple(at_least_one(part.strip()) for part in text.split(","))


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
