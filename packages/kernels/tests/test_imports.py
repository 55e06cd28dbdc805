"""What may be imported without torch: declaring, loading and choosing kernels."""

from __future__ import annotations

import subprocess
import sys

import pytest

LIGHT = """
import sys
{code}
heavy = {{"torch", "numpy", "transformers"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize(
    "code",
    [
        "from plait_kernels import *",
        "import plait_kernels.reference, plait_kernels.torch_backend",
        "import plait_kernels.ops.contract",
        "from plait_kernels import load_backends; assert len(load_backends().backends) >= 2",
    ],
)
def test_imports_no_torch(code: str) -> None:
    if code.endswith("*"):
        # Everything but the names that need torch by their nature.
        code = """
import plait_kernels
for name in plait_kernels.__all__:
    if name not in ("device_of", "LoraBatch", "LoraTable"):
        getattr(plait_kernels, name)
"""
    run(LIGHT.format(code=code))


def test_choosing_imports_no_torch() -> None:
    code = """
from plait_kernels import BUCKETS, OPS, Device, KernelRequest, OpConfig, load_backends
from plait_kernels.loader import BUILT_IN
from plait_kernels.selection import choose
configs = [OpConfig.of(op, dtype="float32", bucket=b, max_tokens=8) for op in OPS for b in BUCKETS]
choices = choose(configs, load_backends(BUILT_IN), KernelRequest.parse("lora=reference"), Device())
names = {choice.config.op: choice.chosen.backend.name for choice in choices}
assert names.pop("lora") == "reference"
assert set(names.values()) == {"torch"} and len(names) == 9, names
"""
    run(LIGHT.format(code=code))


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
