"""Find a compiler and run it; say truly what went wrong."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from plait_kernels.containment import shorten
from plait_kernels.errors import BackendUnusable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MESSAGES: Final = ".messages"
"""Name of the file with what the compiler said."""

READ_OF_MESSAGES: Final = 1 << 16
"""Bytes of it that are read."""


@dataclass(frozen=True)
class Compiler:
    """A compiler that is installed.

    Attributes
    ----------
    command : tuple[str, ...]
        How it is called, before its options; ``CXX="ccache g++"`` is two words.
    identity : str
        Differs where another compiler, or another version, is called.
    """

    command: tuple[str, ...]
    identity: str


def find_compiler(variable: str, default: str) -> Compiler:
    """Return the compiler that an environment variable names.

    Parameters
    ----------
    variable : str
        ``"CXX"`` for one; may hold a name, a path, or a command with options.
    default : str
        The command where the variable is not set.

    Raises
    ------
    BackendUnusable
        There is none.
    """
    wanted = os.environ.get(variable, "").strip() or default
    remedy = f"install {default}, or set {variable} to a compiler's path"
    try:
        words = shlex.split(wanted)
    except ValueError as error:
        msg = f"{variable}={shorten(wanted)!r} is not a command: {error}; {remedy}"
        raise BackendUnusable(msg) from error
    found = [shutil.which(word) for word in words[:1]]
    if not found or found[0] is None:
        msg = f"no compiler: {shorten(wanted)!r} was not found; {remedy}"
        raise BackendUnusable(msg)
    command = (found[0], *words[1:])
    # The programs in front of a compiler (ccache, env) are not what compiles.
    programs = filter(None, (shutil.which(word) for word in command if not word.startswith("-")))
    return Compiler(command, "\n".join((*command, *map(_identity, programs))))


def _identity(program: str) -> str:
    try:
        found = os.stat(program)
        return f"{os.path.realpath(program)} {found.st_size} {found.st_mtime_ns}"
    except OSError:
        return program


def run_compiler(command: Sequence[str], directory: Path, timeout: float) -> None:
    """Run one command of a compilation.

    Parameters
    ----------
    command : Sequence[str]
    directory : Path
        Where it runs, and keeps its temporary files.
    timeout : float
        Seconds.

    Raises
    ------
    BackendUnusable
        It cannot be started, fails, is killed, or does not finish in time; says which.
    """
    program = command[0]
    # A file, not a pipe: what a compiler started may hold a pipe open when it has ended.
    with open(directory / MESSAGES, "wb+") as said:
        process = None
        try:
            process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LC_ALL": "C", "TMPDIR": str(directory)},
                start_new_session=True,
            )
            status = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            msg = f"the compiler {program!r} did not finish in {timeout:g} s"
            raise BackendUnusable(msg) from error
        except (OSError, ValueError) as error:
            msg = f"the compiler {program!r} cannot be started: {error}; repair or replace it"
            raise BackendUnusable(msg) from error
        finally:
            if process is not None:
                _end(process)
        if status:
            said.seek(0)
            text = said.read(READ_OF_MESSAGES).decode(errors="replace")
            raise BackendUnusable(_why(program, status, text))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a compiler that still runs, with the programs that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _why(program: str, status: int, text: str) -> str:
    lines = text.strip().splitlines()
    said = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "")
    said = f": {shorten(said.strip())}" if said.strip() else ""
    if status > 0:
        return f"the compiler {program!r} failed with status {status}{said}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    return f"the compiler {program!r} was killed by signal {name}{said}; is there enough memory?"
