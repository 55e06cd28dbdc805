"""The backend ``triton`` passes the standard tests: lora."""

from __future__ import annotations

import torch

from plait_testing import KernelConformance, Narrowing

ON_GPU = torch.cuda.is_available()
QUICK = (
    "no_token",
    "one_token",
    "one_base_token",
    "base_only",
    "base_among_others",
    "rank_1",
    "ragged_ranks",
    "mixes",
    "dense_rows_and_mixes",
    "two_sites",
    "odd_sizes",
    "strided",
    "tiles_of_1_row",
    "float32_arena",
    "embed",
    "head_one_row",
)


class TestLoraOp(KernelConformance):
    backend = "triton"
    narrowing = Narrowing(
        reason="the other ops have files of their own; many tiles take seconds interpreted",
        ops=("lora",),
        dtypes=() if ON_GPU else ("float32", "bfloat16"),
        cases=() if ON_GPU else QUICK,
    )
