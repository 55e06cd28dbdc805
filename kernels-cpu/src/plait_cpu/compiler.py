"""Compiles the C++ sources on first use, into the user's cache."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "native"

FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fPIC",
    "-fvisibility=hidden",
    # Neither changes a result: nobody reads errno or floating-point exceptions here.
    "-fno-math-errno",
    "-fno-trapping-math",
)

TIMEOUT = 300
"""Seconds that one compilation may take."""


class BuildError(Exception):
    """The kernels cannot be compiled here; says why and what would help."""


def build(cache: Path | None = None) -> Path:
    """Return the compiled library, compiling it if that has not been done yet.

    Parameters
    ----------
    cache : Path | None
        Directory for libraries; default: ``plait/cpu`` in the user's cache.

    Returns
    -------
    Path
        A library for this processor, made of these sources by this compiler.

    Raises
    ------
    BuildError
        On another system than Linux, without a compiler, or if compiling fails.
    """
    if sys.platform != "linux":
        msg = f"compiled on Linux only, this is {sys.platform}"
        raise BuildError(msg)
    compiler = find_compiler()
    cache = user_cache_path("plait") / "cpu" if cache is None else cache
    library = cache / f"plait_cpu-{_digest(compiler)}.so"
    if library.exists():
        return library
    logger.info("compiling the CPU kernels with %s (once, into %s)", compiler, cache)
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            made = _compile(compiler, Path(scratch))
            # Atomic: another process may be doing the same.
            made.replace(library)
    except OSError as error:
        msg = f"the cache {str(cache)!r} cannot be written: {error}; set XDG_CACHE_HOME"
        raise BuildError(msg) from error
    return library


def find_compiler() -> str:
    """Return the path of the C++ compiler: ``$CXX``, or g++.

    Raises
    ------
    BuildError
        There is none.
    """
    wanted = os.environ.get("CXX") or "g++"
    found = shutil.which(wanted)
    if found is None:
        msg = f"no C++ compiler: {wanted!r} was not found; install g++, or set CXX to its path"
        raise BuildError(msg)
    return found


def _compile(compiler: str, scratch: Path) -> Path:
    sources = sorted(str(path) for path in SOURCES.glob("*.cpp"))
    _run([compiler, *FLAGS, "-c", *sources], scratch)
    objects = sorted(str(path) for path in scratch.glob("*.o"))
    # Not linked to OpenMP: torch brings its own, and two of them would fight for the cores.
    _run([compiler, "-shared", *objects, "-o", "plait_cpu.so"], scratch)
    return scratch / "plait_cpu.so"


def _run(command: list[str], directory: Path) -> None:
    try:
        subprocess.run(
            command, cwd=directory, check=True, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        said = next((line for line in lines if "error" in line), lines[-1] if lines else "")
        msg = f"{command[0]} failed with status {error.returncode}: {said}"
        raise BuildError(msg) from error
    except subprocess.TimeoutExpired as error:
        msg = f"{command[0]} did not finish in {TIMEOUT} s"
        raise BuildError(msg) from error


def _digest(compiler: str) -> str:
    """Name everything that the library depends on."""
    found = os.stat(compiler)
    parts = [compiler, str(found.st_size), str(found.st_mtime_ns), _processor(), *FLAGS]
    digest = hashlib.sha256("\0".join(parts).encode())
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _processor() -> str:
    """Return what ``-march=native`` looks at: a cache may be shared by different machines."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join((platform.machine(), *sorted(set(features))))
