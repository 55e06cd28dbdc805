"""The backend ``triton`` passes the standard tests: lora."""

from __future__ import annotations

import pytest
import torch

from plait_testing import KernelConformance, Narrowing
from plait_triton.lora_parameters import LoraParameters

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
    "gate_and_up",
    "odd_sizes",
    "strided",
    "tiles_of_1_row",
    "float32_arena",
    "embed",
    "head_one_row",
    "shared_tiles",
    "calls",
)

LARGE = (
    "base_among_others",
    "mixes",
    "dense_rows_and_mixes",
    "gate_and_up",
    "gate_and_up_base_only",
    "gate_and_up_no_token",
    "gate_and_up_strided",
)


class TestLoraOp(KernelConformance):
    backend = "triton"
    narrowing = Narrowing(
        reason="the other ops have files of their own; many tiles take seconds interpreted, and "
        "small prompts are cut as what is decoded",
        ops=("lora",),
        dtypes=() if ON_GPU else ("float32", "bfloat16"),
        cases=() if ON_GPU else QUICK,
        buckets=() if ON_GPU else ("decode",),
        large=ON_GPU,
    )
    cuts_digits = "" if ON_GPU else "Triton's interpreter does"


class TestLoraOpOfLargeSteps(KernelConformance):
    """Every step is cut as those of prompts, which are too large for these tests."""

    backend = "triton"
    narrowing = Narrowing(
        reason="other ops are cut in one way; what is not about cuts is tested above",
        ops=("lora",),
        dtypes=() if ON_GPU else ("bfloat16",),
        cases=() if ON_GPU else LARGE,
        buckets=("prefill",),
        large=ON_GPU,
    )
    cuts_digits = "" if ON_GPU else "Triton's interpreter does"

    @pytest.fixture(autouse=True)
    def all_steps_are_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(LoraParameters, "is_large", lambda self, tokens: True)
