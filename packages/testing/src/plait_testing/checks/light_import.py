"""Declaring a backend imports neither torch nor the library that its kernels need."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from plait_kernels.loader import BUILT_IN, GROUP, load_backends
from plait_testing.failure import fail

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from plait_kernels.backend import Backend

HEAVY: Final = ("torch", "triton", "flashinfer", "numba", "cupy", "numpy", "jax")
"""Libraries that no declaration needs."""

PROGRAM: Final = """
import json, sys
from importlib.metadata import EntryPoint
from plait_kernels.loader import load_backends
before = set(sys.modules)
loaded = load_backends([EntryPoint(*sys.argv[1:4])])
assert not loaded.failures, loaded.failures
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def check_light_import(backend: Backend) -> None:
    """Load the backend alone in a new process and look at what was imported."""
    found = _entry_point(backend.name)
    command = [sys.executable, "-c", PROGRAM, found.name, found.value, found.group]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        fail(f"loading {found.value} in a new process failed:\n{done.stderr}")
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    heavy = sorted(imported & set(HEAVY))
    if heavy:
        fail(
            f"declaring the backend imported {', '.join(heavy)}; import them in the factories' "
            "modules, and ask for a missing library in Backend.probe with importlib.util.find_spec"
        )
    factories = {kernel.factory.partition(":")[0] for kernel in backend.kernels}
    early = sorted(imported & factories)
    if early:
        fail(
            f"declaring the backend imported {', '.join(early)}, where factories are; put the "
            "declaration in a module of its own that does not import them"
        )


def _entry_point(name: str) -> EntryPoint:
    """Return the entry point that brings a backend; best it has the backend's name."""
    installed: list[EntryPoint] = [*BUILT_IN, *importlib.metadata.entry_points(group=GROUP)]
    for found in sorted(installed, key=lambda entry_point: entry_point.name != name):
        if load_backends([found]).get(name) is not None:
            return found
    fail(f"no entry point of group {GROUP} brings the backend {name!r} any more")
