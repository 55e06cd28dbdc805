"""The backend ``cpu`` passes the standard tests."""

from __future__ import annotations

from plait_testing import KernelConformance


class TestCpu(KernelConformance):
    backend = "cpu"
    device = "cpu"
