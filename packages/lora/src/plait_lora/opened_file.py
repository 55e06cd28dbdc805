"""A regular file of a stranger, opened and read so that it can neither block nor grow."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plait_kernels.errors import AdapterError
from plait_lora.shown import shown

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


@dataclass(frozen=True)
class FileStat:
    """What tells a file from what it was before, without reading it.

    Attributes
    ----------
    path : str
    device, inode : int
    size : int
        Bytes.
    mtime_ns, ctime_ns : int
        Times of the last change of content and of metadata. The second also changes when the
        first is set by hand.
    """

    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def look(cls, path: Path, where: str) -> FileStat:
        """Look at a file; AdapterError if it cannot be read or is not a regular one."""
        try:
            return cls._of(path, path.stat(), where)
        except (OSError, ValueError) as error:
            raise _unless_ours(error, path, where) from error

    @classmethod
    def _of(cls, path: Path, result: os.stat_result, where: str) -> FileStat:
        if not stat.S_ISREG(result.st_mode):
            msg = (
                f"{where}: {shown(str(path))} is not a regular file. Save or copy the adapter "
                "again."
            )
            raise AdapterError(msg)
        return cls(
            str(path),
            result.st_dev,
            result.st_ino,
            result.st_size,
            result.st_mtime_ns,
            result.st_ctime_ns,
        )


class OpenedFile:
    """A regular file, open until the context ends. It is read once, from front to back.

    Opening does not wait for the other end of a pipe that somebody has put in its place, and what
    was opened is looked at again.

    Parameters
    ----------
    path : Path
    where : str
        Names the adapter in messages.

    Raises
    ------
    AdapterError
        If it cannot be read, is not a regular file, or changed since it was looked at.
    """

    def __init__(self, path: Path, where: str) -> None:
        self._path = path
        self._where = where
        # Opening a device may already do something: that is looked at first.
        before = FileStat.look(path, where)
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            self._descriptor = os.open(path, flags)
        except OSError as error:
            raise unreadable(path, where, error) from error
        try:
            self.stat = self._look()
            if self.stat != before:
                raise self._changed()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> OpenedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def start(self, size: int) -> bytes:
        """Return the first ``size`` bytes; fewer if the file ends before."""
        return self._read(size)

    def whole(self) -> bytes:
        """Return all bytes, as many as the file had when it was opened.

        Raises
        ------
        AdapterError
            If the file changes while it is read, or cannot be read.
        """
        data = self._read(self.stat.size)
        if len(data) != self.stat.size or self._look() != self.stat:
            raise self._changed()
        return data

    def _read(self, size: int) -> bytes:
        try:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            data = os.read(self._descriptor, size)
            if len(data) == size:
                return data
            # One call reads at most 2 GiB; of a file that is being cut off it reads less.
            parts = [data]
            while size > (found := sum(map(len, parts))):
                parts.append(os.read(self._descriptor, size - found))
                if not parts[-1]:
                    break
            return b"".join(parts)
        except OSError as error:
            raise unreadable(self._path, self._where, error) from error

    def _look(self) -> FileStat:
        try:
            return FileStat._of(self._path, os.fstat(self._descriptor), self._where)
        except OSError as error:
            raise unreadable(self._path, self._where, error) from error

    def _changed(self) -> AdapterError:
        return AdapterError(
            f"{self._where}: {shown(str(self._path))} changed while it was read. Write an adapter "
            "to a new directory and rename it when it is complete."
        )


def unreadable(path: Path, where: str, error: OSError | ValueError) -> AdapterError:
    """Make the error of a path that the system does not let us read."""
    reason = getattr(error, "strerror", None) or str(error)
    return AdapterError(
        f"{where}: {shown(str(path))} cannot be read ({reason}); it must be readable by this "
        "process. Check the path and its permissions."
    )


def _unless_ours(error: OSError | ValueError, path: Path, where: str) -> Exception:
    # AdapterError is a ValueError.
    return error if isinstance(error, AdapterError) else unreadable(path, where, error)
