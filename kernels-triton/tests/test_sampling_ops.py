"""The backend ``triton`` passes the standard tests: sampling."""

from __future__ import annotations

import torch

from plait_testing import KernelConformance, Narrowing
from plait_testing.cases import load_cases

ON_GPU = torch.cuda.is_available()
OPS = ("apply_penalties", "sample")
SLOW = (
    "drawn",
    "drawn_with_ties",
    "rules",
    "boundaries",
    "boundaries_of_top_p",
    "large_numbers",
    "one_token_left",
    "two_ids",
)


class TestSamplingOps(KernelConformance):
    backend = "triton"
    narrowing = Narrowing(
        reason="the other ops have files of their own; many rows take seconds interpreted, and the "
        "kernels of both buckets are the same",
        ops=OPS,
        cases=()
        if ON_GPU
        else tuple(
            c.name
            for op in OPS
            for c in load_cases(op).cases
            if c.name not in SLOW and not c.is_large
        ),
        buckets=() if ON_GPU else ("decode",),
    )
