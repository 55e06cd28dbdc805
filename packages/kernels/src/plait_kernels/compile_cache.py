"""Compile a backend's sources once, and keep the library in the user's cache. POSIX only.

For any compiler: a ``Build`` names sources, commands and everything else that the result depends
on. What is hashed is what is compiled, and the bytes that were checked are the bytes that are
loaded: a library is read once, its digest is compared with the one in its name, and it is loaded
from memory, whatever becomes of the file.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import logging
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from plait_kernels.compilers import run_compiler
from plait_kernels.containment import shorten
from plait_kernels.errors import BackendUnusable
from plait_kernels.private_directory import NotPrivate, PrivateDirectory, check_ancestors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from plait_kernels.backend import Reasons

logger = logging.getLogger(__name__)

FOLDERS: Final = ("plait", "compiled")
"""Where libraries lie below the user's cache."""

LARGEST: Final = 1 << 30
"""Bytes of a library; what is larger is none of ours."""


@dataclass(frozen=True)
class Build:
    """How one library is made.

    Attributes
    ----------
    name : str
        Of the library, for file names and messages.
    folder : Path
        Where the sources lie.
    sources : tuple[str, ...]
        Every file of the folder that the result depends on, headers too, as paths below it.
    commands : tuple[tuple[str, ...], ...]
        Run one after the other in a directory that holds copies of the sources.
    output : str
        The file there that the last command writes.
    key : tuple[str, ...]
        What else the result depends on: the compiler's identity, the processor.
    timeout : float
        Seconds that one command may take.
    """

    name: str
    folder: Path
    sources: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    output: str
    key: tuple[str, ...] = ()
    timeout: float = 300.0


@dataclass(frozen=True)
class Library:
    """A compiled library whose bytes are known to be those that the compiler wrote.

    Attributes
    ----------
    name : str
    content : bytes
    kept : Path | None
        Where it lies in the cache; None if it could not be kept.
    """

    name: str
    content: bytes = field(repr=False)
    kept: Path | None

    def load(self) -> ctypes.CDLL:
        """Load it into this process.

        Raises
        ------
        BackendUnusable
            It cannot be loaded; it is removed from the cache, so that it is compiled anew.
        """
        problems = []
        for place in (self.path_in_memory, self._path_in_cache):
            try:
                path = place()
                return ctypes.CDLL(path)
            except OSError as error:
                problems.append(shorten(str(error)))
        if self.kept is not None:
            with contextlib.suppress(OSError):
                self.kept.unlink()
        msg = f"the library {self.name!r} was compiled and cannot be loaded: {problems[0]}"
        raise BackendUnusable(msg)

    def path_in_memory(self) -> str:
        """Return a path at which this process finds exactly these bytes until it ends.

        Memory has no permissions, cannot be truncated under a running program, and is not mounted
        ``noexec``.

        Raises
        ------
        OSError
            The system has no such files.
        """
        if not hasattr(os, "memfd_create"):
            msg = "this system has no files in memory"
            raise OSError(msg)
        # Stays open: the dynamic loader takes a path that it knows for the library it knows.
        descriptor = os.memfd_create(self.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(self.content)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        return f"/proc/self/fd/{descriptor}"

    def _path_in_cache(self) -> str:
        if self.kept is None:
            msg = "it is not kept in a cache"
            raise OSError(msg)
        return str(self.kept)


def compile_once(build: Build, base: Path | None = None) -> Library:
    """Return the library of a build: from the cache, else compiled and put there.

    Of several processes that ask at once, one compiles. What is in the cache and is not what the
    compiler wrote is removed and made anew. Where the cache cannot be used the library is compiled
    for this process, and a warning says why.

    Parameters
    ----------
    build : Build
    base : Path | None
        In place of the user's cache directory.

    Raises
    ------
    BackendUnusable
        It cannot be compiled; says why.
    """
    sources = _read_sources(build)
    stem = f"{build.name}-{_key(build, sources)}"
    try:
        cache = PrivateDirectory.open(base or user_cache(), *FOLDERS)
    except (NotPrivate, OSError) as error:
        return _not_kept(stem, _compile(build, sources, None), f"the cache cannot be used: {error}")
    with cache:
        found = _find(cache, stem)
        if found is not None:
            return found
        timeout = build.timeout * len(build.commands)
        with cache.locked(f"{stem}.lock", timeout) as is_locked:
            found = _find(cache, stem)
            if found is not None:
                return found
            if is_locked:
                _remove_drafts(cache, stem)
            logger.info("compiling %s with %s (once)", build.name, build.commands[0][0])
            content = _compile(build, sources, cache.path)
            name = f"{stem}.{hashlib.sha256(content).hexdigest()}.so"
            try:
                cache.write(name, content)
            except OSError as error:
                why = f"the cache {str(cache.path)!r} cannot be written: {error.strerror or error}"
                return _not_kept(stem, content, why)
            return Library(stem, content, cache.path / name)


def objections(base: Path | None = None) -> Reasons:
    """Say why nothing can be compiled here, as far as directories go. Changes nothing.

    Parameters
    ----------
    base : Path | None
        In place of the user's cache directory.
    """
    problems = []
    places: tuple[Callable[[], Path], ...] = (lambda: base or user_cache(), _temporary)
    for place in places:
        try:
            path = place()
            while not path.exists() and path != path.parent:
                path = path.parent
            check_ancestors(path)
        except (NotPrivate, OSError) as error:
            problems.append(str(error))
            continue
        if os.access(path, os.W_OK | os.X_OK):
            return ()
        problems.append(f"{str(path)!r} cannot be written")
    return (f"no directory to compile in: {'; '.join(problems)}; set XDG_CACHE_HOME and TMPDIR",)


def user_cache() -> Path:
    """Return the user's cache directory; ``XDG_CACHE_HOME`` says where.

    Raises
    ------
    NotPrivate
        There is none: the user has no home directory.
    """
    from platformdirs import user_cache_path

    # Depending on its version it raises, or goes on with a path that begins with "~".
    try:
        path = user_cache_path()
    except RuntimeError as error:
        msg = f"this user has no cache directory: {error}"
        raise NotPrivate(msg) from error
    if not path.is_absolute():
        msg = f"this user has no cache directory: {str(path)!r} is not an absolute path"
        raise NotPrivate(msg)
    return path


def _temporary() -> Path:
    # Not tempfile.gettempdir, which writes a file to see whether it can.
    return Path(os.environ.get("TMPDIR") or "/tmp")


def _read_sources(build: Build) -> Mapping[str, bytes]:
    try:
        return {name: (build.folder / name).read_bytes() for name in build.sources}
    except OSError as error:
        msg = f"a source of {build.name} cannot be read: {error}; install it again"
        raise BackendUnusable(msg) from error


def _key(build: Build, sources: Mapping[str, bytes]) -> str:
    contents = {name: hashlib.sha256(content).hexdigest() for name, content in sources.items()}
    parts = [build.name, build.commands, build.output, build.key, contents]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _find(cache: PrivateDirectory, stem: str) -> Library | None:
    for name in cache.names():
        if not (name.startswith(f"{stem}.") and name.endswith(".so")):
            continue
        digest = name.removeprefix(f"{stem}.").removesuffix(".so")
        content = cache.read(name, LARGEST)
        if content and hashlib.sha256(content).hexdigest() == digest:
            return Library(stem, content, cache.path / name)
        logger.warning("%s is not what was compiled; it is made anew", cache.path / name)
        cache.remove(name)
    return None


def _remove_drafts(cache: PrivateDirectory, stem: str) -> None:
    """Remove what processes left that were killed while they wrote."""
    for name in cache.names():
        if name.startswith(f".{stem}."):
            cache.remove(name)


def _not_kept(stem: str, content: bytes, why: str) -> Library:
    logger.warning(
        "%s is compiled for this process only: %s; set XDG_CACHE_HOME to a directory of yours",
        stem.rpartition("-")[0],
        why,
    )
    return Library(stem, content, None)


def _compile(build: Build, sources: Mapping[str, bytes], cache: Path | None) -> bytes:
    with _scratch(cache) as directory:
        try:
            for name, content in sources.items():
                path = directory / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        except OSError as error:
            msg = f"{str(directory)!r} cannot be written: {error.strerror or error}; set TMPDIR"
            raise BackendUnusable(msg) from error
        for command in build.commands:
            run_compiler(command, directory, build.timeout)
        return _read_output(build, directory)


def _read_output(build: Build, directory: Path) -> bytes:
    path, program = directory / build.output, build.commands[-1][0]
    if not path.is_file() or path.is_symlink():
        msg = f"the compiler {program!r} ended without an error and wrote no {build.output}"
        raise BackendUnusable(msg)
    size = path.stat().st_size
    if not 0 < size <= LARGEST:
        msg = f"the compiler {program!r} wrote a {build.output} of {size} bytes"
        raise BackendUnusable(msg)
    return path.read_bytes()


@contextlib.contextmanager
def _scratch(cache: Path | None) -> Iterator[Path]:
    """Make a directory to compile in that nobody else can write; it is removed afterwards."""
    problems = []
    for parent in (tempfile.gettempdir, lambda: str(cache)) if cache else (tempfile.gettempdir,):
        try:
            check_ancestors(Path(parent()))
            directory = tempfile.TemporaryDirectory(
                prefix="plait-", dir=parent(), ignore_cleanup_errors=True
            )
        except (NotPrivate, OSError) as error:
            problems.append(str(error))
            continue
        with directory:
            yield Path(directory.name)
        return
    msg = f"no directory to compile in: {'; '.join(problems)}; set TMPDIR to one of yours"
    raise BackendUnusable(msg)
