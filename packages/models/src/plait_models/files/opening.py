"""Open and read files that somebody else wrote: regular files only, of a bounded size."""

from __future__ import annotations

import json
import os
import stat
from typing import IO, TYPE_CHECKING, Any

from plait_kernels.arguments import shown
from plait_kernels.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

MAX_JSON_BYTES = 2**27
"""Bytes of a JSON file; the largest indices of shards have some 10 million."""

_SHOWN = 80


def shortened(value: object) -> str:
    """Write a value for a message: its ``repr``, cut after 80 characters."""
    # The repr of a huge text would be made before it is cut; that of a huge number cannot be.
    text = repr(value[: 2 * _SHOWN]) if isinstance(value, str | bytes) else shown(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading.

    A pipe or a device, even one that takes the place of the file at the last moment, is refused
    and never waited for.

    Raises
    ------
    OSError
        There is no such file, it may not be read, or it is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            message = "it is not a regular file"
            raise OSError(message)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON file that must hold an object. A byte order mark before it is skipped.

    Parameters
    ----------
    path : Path
    most : int
        Bytes that it may have.

    Raises
    ------
    ModelError
        The file cannot be read, is not JSON, or holds something else than an object.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                message = f"it has {size} bytes, more than the {most} that are allowed"
                raise ValueError(message)
            contents = json.loads(file.read(most).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        message = f"{path}: cannot be read as JSON: {error}. Fetch the file again"
        raise ModelError(message) from error
    if not isinstance(contents, dict):
        message = (
            f"{path}: holds a JSON {type(contents).__name__}, must hold an object. Fetch the file "
            "again"
        )
        raise ModelError(message)
    return contents
