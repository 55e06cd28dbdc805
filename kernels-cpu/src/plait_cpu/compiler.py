"""How the C++ sources become the library, by the user's compiler."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

from plait_kernels.compile_cache import Build, Library, compile_once
from plait_kernels.compilers import Compiler, find_compiler

SOURCES: Final = Path(__file__).parent / "native"

LIBRARY: Final = "plait_cpu.so"

FLAGS: Final = (
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


def cpp_compiler() -> Compiler:
    """Return the C++ compiler: ``$CXX``, or g++.

    Raises
    ------
    BackendUnusable
        There is none.
    """
    return find_compiler("CXX", "g++")


def build(base: Path | None = None) -> Library:
    """Return the compiled library, compiling it if that has not been done yet.

    Parameters
    ----------
    base : Path | None
        In place of the user's cache directory.

    Returns
    -------
    Library
        For this processor, made of these sources by this compiler.

    Raises
    ------
    BackendUnusable
        There is no compiler, or compiling fails.
    """
    compiler = cpp_compiler()
    names = tuple(sorted(path.name for path in SOURCES.iterdir() if path.is_file()))
    units = tuple(name for name in names if name.endswith(".cpp"))
    objects = tuple(f"{name.removesuffix('.cpp')}.o" for name in units)
    commands = (
        (*compiler.command, *FLAGS, "-c", *units),
        # Not linked to OpenMP: torch brings its own, and two of them would fight for the cores.
        (*compiler.command, "-shared", *objects, "-o", LIBRARY),
    )
    key = (compiler.identity, _processor())
    return compile_once(Build("plait_cpu", SOURCES, names, commands, LIBRARY, key), base)


def _processor() -> str:
    """Return what ``-march=native`` looks at: a cache may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        # As much as is known without it.
        lines = [f"model name {platform.processor()} of {platform.node()}"]
    features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    return "\n".join((platform.machine(), *sorted(set(features))))
