"""No op of the backend is without standard tests."""

from __future__ import annotations

import re
from pathlib import Path

from plait_triton import OPS, plait_kernel_backend


def test_every_op_is_tested() -> None:
    """The classes of the other files narrow to an op each, or to several."""
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_*_op*.py")]
    narrowed = [text for text in texts if "KernelConformance" in text]
    named = {name for text in narrowed for name in re.findall(r'"(\w+)"', text)}
    assert set(OPS) <= named
    assert {kernel.op for kernel in plait_kernel_backend().kernels} == set(OPS)
