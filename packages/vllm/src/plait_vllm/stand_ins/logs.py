"""init_logger: loggers that can say a thing once."""

from __future__ import annotations

import logging
from typing import Any


def init_logger(name: str) -> logging.Logger:
    """Return the logger of a name, with ``debug_once``, ``info_once`` … beside the usual methods.

    Parameters
    ----------
    name : str
    """
    logger = logging.getLogger(name)
    # transformers gives every logger methods of these names, which take other arguments.
    if not isinstance(getattr(logger, "info_once", None), _Once):
        said: set[tuple[str, str, str]] = set()
        for level in ("debug", "info", "warning", "error"):
            setattr(logger, f"{level}_once", _Once(getattr(logger, level), level, said))
    return logger


class _Once:
    def __init__(self, say: Any, level: str, said: set[tuple[str, str, str]]) -> None:
        self._say = say
        self._level = level
        self._said = said

    def __call__(self, message: str, *arguments: object, scope: str = "local") -> None:
        what = (self._level, message, repr(arguments))
        if what not in self._said:
            self._said.add(what)
            self._say(message, *arguments, stacklevel=2)
