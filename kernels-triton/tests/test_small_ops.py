"""The backend ``triton`` passes the standard tests: norms, activation, rotary, KV write, linear."""

from __future__ import annotations

import torch

from plait_testing import KernelConformance, Narrowing
from plait_testing.cases import load_cases

ON_GPU = torch.cuda.is_available()
OPS = (
    "fused_add_rms_norm",
    "kv_write",
    "linear",
    "rms_norm",
    "rotary_embedding",
    "silu_and_mul",
)
SLOW = ("small_numbers", "zeros", "large_numbers", "another_eps", "late_positions")


class TestSmallOps(KernelConformance):
    backend = "triton"
    narrowing = Narrowing(
        reason="the other ops have files of their own; interpreted, float16 is as bfloat16, and "
        "large cases take seconds",
        ops=OPS,
        cases=()
        if ON_GPU
        else tuple(
            c.name
            for op in OPS
            for c in load_cases(op).cases
            if c.name not in SLOW and not c.is_large
        ),
        dtypes=() if ON_GPU else ("float32", "bfloat16"),
    )
    cuts_digits = "" if ON_GPU else "Triton's interpreter does"
