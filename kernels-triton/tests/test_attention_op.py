"""The backend ``triton`` passes the standard tests: attention."""

from __future__ import annotations

import torch

from plait_testing import KernelConformance, Narrowing
from plait_testing.cases import load_cases

ON_GPU = torch.cuda.is_available()
SLOW = (
    "wide_heads",
    "long_prompt",
    "decode_long",
    "large_scores",
    "largest_scores",
    "bad_prompt",
    "two_layers",
    "calls_with_prompts",
    "decode_two_layers",
)


class TestAttentionOp(KernelConformance):
    backend = "triton"
    narrowing = Narrowing(
        reason="the other ops have files of their own; long rows take seconds interpreted",
        ops=("attention",),
        dtypes=() if ON_GPU else ("float32", "bfloat16"),
        cases=()
        if ON_GPU
        else tuple(
            c.name for c in load_cases("attention").cases if c.name not in SLOW and not c.is_large
        ),
    )
    cuts_digits = "" if ON_GPU else "Triton's interpreter does"
