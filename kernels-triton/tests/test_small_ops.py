"""The backend ``triton`` passes the standard tests: norms, activation, rotary, KV write, linear."""

from __future__ import annotations

import torch

from plait_testing import KernelConformance, Narrowing

ON_GPU = torch.cuda.is_available()


class TestSmallOps(KernelConformance):
    backend = "triton"
    narrowing = Narrowing(
        reason="the other ops have files of their own; interpreted, float16 is as bfloat16, and "
        "large cases take seconds",
        ops=(
            "fused_add_rms_norm",
            "kv_write",
            "linear",
            "rms_norm",
            "rotary_embedding",
            "silu_and_mul",
        ),
        dtypes=() if ON_GPU else ("float32", "bfloat16"),
        large=ON_GPU,
    )
    cuts_digits = "" if ON_GPU else "Triton's interpreter does"
