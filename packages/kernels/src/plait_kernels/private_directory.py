"""PrivateDirectory: a directory in which nobody but this user can have put anything. POSIX only.

A library that is loaded runs with all rights of the process. So what lies in a cache is believed
only where no other user can have written it: the directory and its files are this user's, nobody
else may write them, and no directory above can be exchanged by somebody else.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import secrets
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class NotPrivate(Exception):
    """Somebody else could have put something there; says who, and what would help."""


def check_ancestors(path: Path) -> None:
    """Look whether another user could exchange a directory, or one above it.

    Parameters
    ----------
    path : Path
        An existing directory. Symbolic links in it are followed: they are looked at where they
        lead, and are as safe as the directories that they stand in, which are looked at too.

    Raises
    ------
    NotPrivate
        One of them belongs to neither this user nor root, or others may write it and it is not
        sticky, as /tmp is.
    OSError
        One cannot be looked at.
    """
    real = path.resolve(strict=True)
    # What the path names on the way may be another directory than where it ends.
    for directory in dict.fromkeys((real, *real.parents, *path.absolute().parents)):
        found = directory.stat()
        _check_owner(directory, found, (0, os.geteuid()))
        if _others_may_write(found) and not found.st_mode & stat.S_ISVTX:
            msg = f"{str(directory)!r} can be written by other users: chmod go-w it"
            raise NotPrivate(msg)


def _check_owner(path: Path, found: os.stat_result, owners: tuple[int, ...]) -> None:
    if found.st_uid not in owners:
        msg = f"{str(path)!r} belongs to another user (uid {found.st_uid})"
        raise NotPrivate(msg)


def _others_may_write(found: os.stat_result) -> bool:
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _is_own_group(found.st_gid)


def _is_own_group(gid: int) -> bool:
    """Whether a group has this user as its only member, as many systems make one for each user."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return user.pw_gid == gid and group.gr_name == user.pw_name and not group.gr_mem


class PrivateDirectory:
    """A directory of this user's, mode 0700, held open: its path is not looked up again.

    Parameters
    ----------
    path : Path
        For messages.
    descriptor : int
        Is closed with the object.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    @classmethod
    def open(cls, base: Path, *names: str) -> PrivateDirectory:
        """Open ``base/names…``; make what is missing.

        Parameters
        ----------
        base : Path
            A directory that others may read, such as the user's cache. May lie behind a link.
        *names : str
            Directories below it that belong to this user alone; none may be a link.

        Raises
        ------
        NotPrivate
            Others can have written there.
        OSError
            It cannot be made or opened.
        """
        if not base.is_absolute():
            msg = f"{str(base)!r} is not an absolute path"
            raise NotPrivate(msg)
        for directory in (*reversed(base.parents), base):
            if not directory.is_dir():
                with contextlib.suppress(FileExistsError):
                    directory.mkdir(mode=0o700)
        check_ancestors(base)
        path, descriptor = base, os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        for name in names:
            path = path / name
            try:
                below = _open_directory(descriptor, name, path)
            finally:
                os.close(descriptor)
            descriptor = below
        return cls(path, descriptor)

    def __enter__(self) -> PrivateDirectory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def names(self) -> list[str]:
        """Return the names of what lies in the directory, sorted."""
        return sorted(os.listdir(self._descriptor))

    def read(self, name: str, limit: int) -> bytes | None:
        """Return a file's content; None if it is not a file of this user's alone.

        Parameters
        ----------
        name : str
        limit : int
            Bytes; what is larger is not read.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            is_own = found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE
            if not (stat.S_ISREG(found.st_mode) and is_own and found.st_size <= limit):
                return None
            try:
                return file.read(limit)
            except OSError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, all of it or nothing, also if the machine stops in the middle.

        Raises
        ------
        OSError
            It cannot be written; nothing is left behind.
        """
        here, draft = self._descriptor, f".{name}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(draft, flags, 0o600, dir_fd=here)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.rename(draft, name, src_dir_fd=here, dst_dir_fd=here)
        except BaseException:
            self.remove(draft)
            raise
        # Not every file system can; the name is there either way.
        with contextlib.suppress(OSError):
            os.fsync(here)

    def remove(self, name: str) -> None:
        """Remove a file, if that is possible."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._descriptor)

    @contextlib.contextmanager
    def locked(self, name: str, timeout: float) -> Iterator[bool]:
        """Be the only process that holds the lock ``name``; it ends with the process that has it.

        Parameters
        ----------
        name : str
        timeout : float
            Seconds to wait for another process.

        Yields
        ------
        bool
            False if there is no lock to be had: the file system has none, or the time is over.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        except OSError:
            yield False
            return
        try:
            yield _lock(descriptor, time.monotonic() + timeout)
        finally:
            os.close(descriptor)


def _open_directory(parent: int, name: str, path: Path) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if path.is_symlink():
            msg = f"{str(path)!r} is a symbolic link: remove it"
            raise NotPrivate(msg) from error
        raise
    try:
        found = os.fstat(descriptor)
        _check_owner(path, found, (os.geteuid(),))
        # What lies there may have been planted while others could write.
        if found.st_mode & _OTHERS_WRITE:
            msg = f"{str(path)!r} can be written by other users: remove it"
            raise NotPrivate(msg)
        if found.st_mode & _OTHERS:
            os.fchmod(descriptor, 0o700)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, deadline: float) -> bool:
    pause = 0.01
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
        except OSError:
            return False
        else:
            return True
