"""What plait asks of every kernel."""

from __future__ import annotations

from plait_testing import KernelConformance


class TestExample(KernelConformance):
    backend = "example"
