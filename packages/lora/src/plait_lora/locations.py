"""Locations: which directory each ``lora_path`` stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TypeAlias

Locate: TypeAlias = Callable[[str, str], str]
"""(hub id, name of the adapter in messages) -> directory of the newest snapshot."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ``owner/repository``."""
    return _HUB_ID.fullmatch(name) is not None


class Locations:
    """The snapshots that hub ids stand for.

    A path that is there stands for itself, also if it has the form of an id. An id goes on
    standing for the snapshot of its first use until another one is kept.

    Parameters
    ----------
    locate : Locate | None
        None: every path stands for itself.
    """

    def __init__(self, locate: Locate | None = None) -> None:
        self._locate = locate
        self._snapshots: dict[str, str] = {}

    def known(self, path: str, *, again: bool = False) -> str | None:
        """Return the directory of a path, None if it takes a ``find``.

        ``again`` asks for the newest snapshot of an id.
        """
        if self._locate is None or not is_hub_id(path) or os.path.exists(path):
            return path
        return None if again else self._snapshots.get(path)

    def find(self, path: str, where: str, *, again: bool = False) -> str:
        """Return the directory of a path, found with ``locate`` if need be; its errors pass."""
        known = self.known(path, again=again)
        if known is not None or self._locate is None:
            return path if known is None else known
        return self._locate(path, where)

    def keep(self, path: str, directory: str) -> None:
        """Let ``path`` stand for ``directory`` from now on."""
        if self.known(path) != path:
            self._snapshots[path] = directory
