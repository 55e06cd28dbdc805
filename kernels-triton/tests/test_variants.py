"""What ``warm_up`` lists is all that an engine's calls can need, and each of it once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from plait_triton.variants import Pointer, Variant

PROGRAM = Path(__file__).with_name("walk_variants.py")


def test_every_launch_is_foreseen() -> None:
    environment = {**os.environ}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert said["missing"] == []
    assert said["launches"] > 10_000
    # Few variants of the four models are compiled before the first step.
    assert sum(said["foreseen"].values()) < 4 * 150


class Parameter:
    """As much of a kernel's parameter as is looked at."""

    def __init__(self, *, specialize: bool = True, align: bool = True) -> None:
        self.do_not_specialize = not specialize
        self.do_not_specialize_on_alignment = not align


class Kernel:
    def __init__(self, *params: Parameter) -> None:
        self.params = params


@pytest.mark.parametrize(
    ("parameter", "alike", "different"),
    [
        (Parameter(), (16, 4096), (1, 3, 2**40)),
        (Parameter(align=False), (16, 3, 4096), (1, 2**40)),
        (Parameter(specialize=False), (1, 3, 16), (2**40,)),
        (Parameter(), (2**40, 2**33), (2**33 + 1, 16)),
    ],
)
def test_numbers_that_triton_takes_to_be_alike(
    parameter: Parameter, alike: tuple[int, ...], different: tuple[int, ...]
) -> None:
    kernel, device = Kernel(parameter), torch.device("cpu")
    variants = {Variant.of(kernel, device, (number,), {}) for number in alike}
    assert len(variants) == 1
    others = {Variant.of(kernel, device, (number,), {}) for number in different}
    assert len(others) == len(different)
    assert variants.isdisjoint(others)


def test_tensors_without_memory_begin_where_they_would() -> None:
    memory = torch.empty(64, dtype=torch.float32, device="meta")
    for start in range(8):
        (pointer,) = Variant.of(Kernel(Parameter()), memory.device, (memory[start:],), {}).arguments
        assert pointer == Pointer(torch.float32, start % 4 == 0)
        assert isinstance(pointer, Pointer)
        assert (pointer.data_ptr() % 16 == 0) == (start % 4 == 0)
