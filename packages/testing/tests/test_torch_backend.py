"""The built-in backends pass the standard tests."""

from __future__ import annotations

from plait_testing import KernelConformance, Narrowing, deviation


class TestTorch(KernelConformance):
    backend = "torch"
    narrowing = Narrowing("its kernels are the same in both buckets", buckets=("prefill",))


class TestReference(KernelConformance):
    backend = "reference"
    narrowing = Narrowing(
        "it agrees with itself; one dtype and bucket show the rest",
        dtypes=("float32",),
        buckets=("prefill",),
        large=False,
    )
    test_replays_in_a_graph = deviation(reason="references look at tokens on the host")
