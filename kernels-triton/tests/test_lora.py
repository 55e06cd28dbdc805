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
    SMALL_STEP,
    ExpandParameters,
    LoraParameters,
    ShrinkParameters,
    token_class,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class OfLargeSteps(LoraParameters):
    """Cuts every step as those of prompts, be it as small as it may."""

    def is_large(self, tokens: int) -> bool:
        return True


PARAMETERS = (LoraParameters(is_decode=True), OfLargeSteps(is_decode=False))
either_cut = pytest.mark.parametrize("parameters", PARAMETERS, ids=("small", "large"))


def implementation(parameters: LoraParameters) -> TritonLora:
    config = OpConfig.of("lora", dtype="float32", bucket="decode", max_tokens=512, group="qkv")
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


@either_cut
def test_segments_of_several_work_items(parameters: LoraParameters) -> None:
    """Segments that begin and end anywhere, one token and many items long."""
    token_slot = (2, *[0, -1] * 9, *[1] * 130, 3, *[4] * 16, 0)
    assert_agrees(
        implementation(parameters),
        token_slot=token_slot, slots=6, dense=False, max_adapters=1,
        in_features=24, out_features=(20,), ranks=(2, 9),
    )  # fmt: skip


class OfShortParts(OfLargeSteps):
    """Has programs of few columns."""

    def expand_silu(self, **facts: int) -> ExpandParameters:
        return replace(super().expand_silu(**facts), blocks=2)


@pytest.mark.parametrize(
    "parameters", [PARAMETERS[0], OfShortParts(is_decode=False)], ids=["small", "large"]
)
def test_gate_and_up_of_several_blocks(parameters: LoraParameters) -> None:
    """Columns of several programs and blocks, tokens of several work items, base ones between."""
    data = inputs(
        3, device=DEVICE, group="gate_up", packed=True, in_features=24, out_features=(300, 300),
        token_slot=(2, *[0, -1] * 9, *[1] * 40, *[-1] * 40, 3, 0), slots=4, ranks=(2, 9, 30),
    )  # fmt: skip
    reference = ReferenceLora()
    products = reference.shrink(data.x, data.sites, data.batch)
    expected = reference.expand_silu_and_mul(products, data.sites, data.batch, data.y.clone())
    kernel = implementation(parameters)
    h = kernel.shrink(data.x, data.sites, data.batch)
    z = kernel.expand_silu_and_mul(h, data.sites, data.batch, data.y)
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)


@either_cut
def test_a_split_input(parameters: LoraParameters) -> None:
    """Partial sums over the input, the last of a shorter piece, and rank rows in several chunks."""
    assert_agrees(
        implementation(parameters),
        token_slot=(0, 1, -1, 0), slots=2, dense=False, max_adapters=1,
        in_features=1801, out_features=(300,), ranks=(3, 90),
    )  # fmt: skip


@either_cut
def test_more_sites_than_a_launch_takes(parameters: LoraParameters) -> None:
    """Four sites of one input."""
    assert_agrees(implementation(parameters), tokens=5, out_features=(24, 40, 16, 8))


class WithoutTensorCores(LoraParameters):
    """Multiplies work items of one token in the other way."""

    def shrink(self, **facts: int) -> ShrinkParameters:
        return replace(super().shrink(**facts), one=True)


def test_a_token_alone_without_tensor_cores() -> None:
    """The other way of multiplying one token gives the same."""
    kernel = implementation(WithoutTensorCores(is_decode=True))
    assert_agrees(kernel, token_slot=(1, -1, 0, 0), slots=2, in_features=700)


@pytest.mark.parametrize("bucket", BUCKETS)
def test_numbers_of_tokens_of_a_class_are_cut_alike(bucket: str) -> None:
    """What is kept of a launch may be taken for all of them."""
    parameters = LoraParameters(bucket == "decode")
    of_class: dict[int, set[tuple[ShrinkParameters, ExpandParameters]]] = {}
    for tokens in range(1, 3000):
        shrink = parameters.shrink(tokens=tokens, sites=3, in_features=4096, itemsize=2)
        expand = parameters.expand(tokens=tokens, out_features=4096, itemsize=2)
        of_class.setdefault(token_class(tokens), set()).add((shrink, expand))
    assert {len(chosen) for chosen in of_class.values()} == {1}


@pytest.mark.parametrize("tokens", [1, 9, 40, 200, 513])
@pytest.mark.parametrize("bucket", BUCKETS)
def test_shrink_plans_for_work_items_of_its_own_size(bucket: str, tokens: int) -> None:
    """It numbers expand's items by its own."""
    parameters = LoraParameters(bucket == "decode")
    shrink = parameters.shrink(tokens=tokens, sites=3, in_features=4096, itemsize=2)
    expand = parameters.expand(tokens=tokens, out_features=4096, itemsize=2)
    assert shrink.plan == (tokens > FEW_TOKENS and not parameters.is_large(tokens))
    assert parameters.is_large(tokens) == (bucket == "prefill" and tokens > SMALL_STEP)
    assert not shrink.plan or shrink.tokens == expand.tokens
