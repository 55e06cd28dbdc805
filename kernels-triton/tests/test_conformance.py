"""The backend ``triton`` passes the standard tests."""

from __future__ import annotations

from plait_testing import KernelConformance


class TestTriton(KernelConformance):
    backend = "triton"
