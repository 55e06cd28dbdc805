"""``lora`` where the standard cases are too small: long segments, split inputs, many sites."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from plait_kernels.config import BUCKETS, OpConfig
from plait_kernels.ops.lora import ReferenceLora, inputs
from plait_triton.lora import TritonLora
from plait_triton.lora_parameters import (
    FEW_TOKENS,
    LoraParameters,
    ShrinkParameters,
    token_class,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def implementation(bucket: str, parameters: LoraParameters | None = None) -> TritonLora:
    config = OpConfig.of("lora", dtype="float32", bucket=bucket, max_tokens=512, group="qkv")
    return TritonLora(config, parameters)


def assert_agrees(kernel: TritonLora, **arguments: Any) -> None:
    """Compare with the reference on random inputs."""
    data = inputs(7, device=DEVICE, **arguments)
    expected = data.y.clone()
    reference = ReferenceLora()
    products = reference.shrink(data.x, data.sites, data.batch)
    reference.expand(products, data.sites, data.batch, expected)
    h = kernel.shrink(data.x, data.sites, data.batch)
    kernel.expand(h, data.sites, data.batch, data.y)
    torch.testing.assert_close(data.y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bucket", BUCKETS)
def test_segments_of_several_work_items(bucket: str) -> None:
    """Segments that begin and end anywhere, one token and many items long."""
    token_slot = (2, *[0, -1] * 9, *[1] * 130, 3, *[4] * 16, 0)
    assert_agrees(
        implementation(bucket),
        token_slot=token_slot, slots=6, dense=False, max_adapters=1,
        in_features=24, out_features=(20,), ranks=(2, 9),
    )  # fmt: skip


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_split_input(bucket: str) -> None:
    """Partial sums over the input, the last of a shorter piece, and rank rows in several chunks."""
    assert_agrees(
        implementation(bucket),
        token_slot=(0, 1, -1, 0), slots=2, dense=False, max_adapters=1,
        in_features=1801, out_features=(300,), ranks=(3, 90),
    )  # fmt: skip


@pytest.mark.parametrize("bucket", BUCKETS)
def test_more_sites_than_a_launch_takes(bucket: str) -> None:
    """Four sites of one input."""
    assert_agrees(implementation(bucket), tokens=5, out_features=(24, 40, 16, 8))


class WithoutTensorCores(LoraParameters):
    """Multiplies work items of one token in the other way."""

    def shrink(self, **facts: int) -> ShrinkParameters:
        return replace(super().shrink(**facts), one=True)


@pytest.mark.parametrize("bucket", BUCKETS)
def test_a_token_alone_without_tensor_cores(bucket: str) -> None:
    """The other way of multiplying one token gives the same."""
    kernel = implementation(bucket, WithoutTensorCores(bucket == "decode"))
    assert_agrees(kernel, token_slot=(1, -1, 0, 0), slots=2, in_features=700)


@pytest.mark.parametrize("bucket", BUCKETS)
def test_numbers_of_tokens_of_a_class_are_cut_alike(bucket: str) -> None:
    """What is kept of a launch may be taken for all of them."""
    parameters = LoraParameters(bucket == "decode")
    facts = {"sites": 3, "in_features": 4096, "itemsize": 2}
    of_class: dict[int, set[ShrinkParameters]] = {}
    for tokens in range(1, 3000):
        chosen = parameters.shrink(tokens=tokens, **facts)
        of_class.setdefault(token_class(tokens), set()).add(chosen)
    assert {len(chosen) for chosen in of_class.values()} == {1}


@pytest.mark.parametrize("tokens", [1, 9, 40, 200])
@pytest.mark.parametrize("bucket", BUCKETS)
def test_shrink_plans_for_work_items_of_its_own_size(bucket: str, tokens: int) -> None:
    """It numbers expand's items by its own."""
    parameters = LoraParameters(bucket == "decode")
    shrink = parameters.shrink(tokens=tokens, sites=3, in_features=4096, itemsize=2)
    expand = parameters.expand(out_features=4096, itemsize=2)
    assert shrink.plan == (bucket == "decode" and tokens > FEW_TOKENS)
    assert not shrink.plan or shrink.tokens == expand.tokens
