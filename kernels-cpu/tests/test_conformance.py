"""The backend ``cpu`` passes the standard tests."""

from __future__ import annotations

from plait_testing import KernelConformance, Narrowing


class TestCpu(KernelConformance):
    backend = "cpu"
    device = "cpu"
    narrowing = Narrowing(
        "its kernels are the same in both buckets, and attention is of one", buckets=("decode",)
    )
