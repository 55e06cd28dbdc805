"""What a plugin's code raises, and the values that it hands over, put into words."""

from __future__ import annotations

from typing import Final

LONGEST: Final = 400
"""Characters of a message or value that come from a plugin or a user, at most."""


def is_contained(error: BaseException) -> bool:
    """Return whether an error of a plugin's code costs that plugin only.

    An interrupt passes, and so does everything else by which a program is ended or cancelled.
    ``SystemExit`` does not: a library that calls ``sys.exit`` where it finds no driver must not end
    the program. A panic in Rust code is no ``Exception`` in Python.
    """
    return isinstance(error, Exception | SystemExit) or type(error).__module__ == "pyo3_runtime"


def describe(error: BaseException) -> str:
    """Return the class and the message of an error, on one line, shortened."""
    try:
        message = str(error)
    except Exception:
        message = "its message cannot be read"
    # ImportErrors of shared libraries and compilers' messages have many lines.
    text = shorten(" ".join(message.split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def show(value: object) -> str:
    """Return ``repr(value)``, shortened; a plugin's object may have a repr that raises."""
    try:
        return shorten(repr(value))
    except Exception:
        return f"an object of class {type(value).__name__}"


def shorten(text: str, longest: int = LONGEST) -> str:
    """Cut the middle out of a text that is too long to be read."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} … ({len(text)} characters) … {text[-half // 2 :]}"
