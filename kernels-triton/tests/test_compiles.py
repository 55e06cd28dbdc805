"""Every kernel compiles for real GPUs, without one, and keeps its values in registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plait_triton import OPS

PROGRAM = Path(__file__).with_name("compile_only.py")

SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes that one program can have, by compute capability."""

MOST_STACK = {80: 128, 90: 0}
"""Bytes that a thread may keep outside its registers: block sizes are chosen for 9.0."""


def compile_kernels(capability: int, calls: tuple[str, ...], cache: Path) -> list[dict[str, Any]]:
    """Compile what calls launch in a process that has no interpreter and no compiled kernels."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache)}
    environment.pop("TRITON_INTERPRET", None)
    shared = SHARED_MEMORY[capability]
    command = [sys.executable, str(PROGRAM), str(capability), str(shared), *calls]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kernels: list[dict[str, Any]] = json.loads(done.stdout)
    return kernels


@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_compiles(capability: int, tmp_path: Path) -> None:
    kernels = compile_kernels(capability, tuple(OPS), tmp_path)
    assert {kernel["op"] for kernel in kernels} == set(OPS)
    spilled = [kernel for kernel in kernels if kernel["stack"] > MOST_STACK[capability]]
    assert not spilled
    too_large = [kernel for kernel in kernels if kernel["shared"] > SHARED_MEMORY[capability]]
    assert not too_large


def test_lora_compiles_for_two_dtypes(tmp_path: Path) -> None:
    """Nothing is asked of its registers: adapters are served in the activations' dtype."""
    kernels = compile_kernels(90, ("lora_of_two_dtypes",), tmp_path)
    assert {kernel["name"] for kernel in kernels} == {"shrink_kernel", "expand_kernel"}
    assert max(kernel["shared"] for kernel in kernels) <= SHARED_MEMORY[90]
