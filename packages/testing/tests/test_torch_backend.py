"""The built-in backends pass the standard tests."""

from __future__ import annotations

from plait_testing import KernelConformance, Narrowing, deviation


class TestTorch(KernelConformance):
    backend = "torch"


class TestReference(KernelConformance):
    backend = "reference"
    narrowing = Narrowing("it agrees with itself; one dtype shows the rest", dtypes=("float32",))
    test_replays_in_a_graph = deviation(reason="references look at tokens on the host")
