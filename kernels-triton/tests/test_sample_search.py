"""The search of ``sample`` ends, and at the right logit, where logits are far from ordinary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch

from plait_kernels.config import OpConfig
from plait_kernels.ops import sample as contract
from plait_kernels.sampling_types import SampleBatch
from plait_triton.sample import Sample, SampleParameters

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, VOCAB, CHUNK = 6, 600, 256
CONFIG = OpConfig.of("sample", dtype="float32", bucket="decode", max_tokens=64, vocab=VOCAB)

INFINITY = float("inf")


def normal(source: torch.Generator) -> torch.Tensor:
    return 3 * torch.randn(ROWS, VOCAB, generator=source)


def powers(source: torch.Generator) -> torch.Tensor:
    """Every binade, both signs: no two levels of a linear scale part the small ones."""
    exponent = torch.randint(-140, 4, (ROWS, VOCAB), generator=source)
    sign = torch.randint(0, 2, (ROWS, VOCAB), generator=source) * 2 - 1
    return torch.ldexp(sign.float(), exponent)


def neighbours(source: torch.Generator) -> torch.Tensor:
    """One unit in the last place apart, so that levels between them round to one of them."""
    bits = torch.tensor(5.0).view(torch.int32)
    return (bits + torch.randint(0, 5, (ROWS, VOCAB), generator=source).int()).view(torch.float32)


def few_finite(source: torch.Generator) -> torch.Tensor:
    logits = normal(source)
    return logits.masked_fill_(torch.rand(ROWS, VOCAB, generator=source) < 0.98, -INFINITY)


LOGITS: dict[str, Callable[[torch.Generator], torch.Tensor]] = {
    "normal": normal,
    "bfloat16": lambda source: normal(source).bfloat16().float(),
    "flat": lambda source: 1e-3 * normal(source),
    "equal": lambda source: torch.full((ROWS, VOCAB), -2.5),
    "neighbours": neighbours,
    "powers": powers,
    "far_apart": lambda source: 1e36 * normal(source),
    "few_finite": few_finite,
    "negative": lambda source: normal(source) - 1e4,
}


@pytest.mark.parametrize("kind", LOGITS)
def test_draws_as_the_reference(kind: str) -> None:
    source = torch.Generator().manual_seed(1)
    logits = LOGITS[kind](source)
    batch = SampleBatch(
        temperature=torch.tensor([1.0, 0.7, 1.3, 1.0, 0.5, 2.0]),
        top_k=torch.tensor([0, 0, 300, 5, VOCAB - 1, 1], dtype=torch.int32),
        top_p=torch.tensor([1 - 2**-24, 0.5, 1.0, 0.9, 1e-9, 0.3]),
        min_p=torch.tensor([0.0, 0.0, 0.2, 0.0, 0.0, 0.0]),
        seed=torch.randint(-(2**63), 2**63 - 1, (ROWS,), generator=source),
        position=torch.randint(0, 2**40, (ROWS,), generator=source),
        all_greedy=False,
    )
    parameters = replace(SampleParameters.of(CONFIG), chunk=CHUNK, tile=CHUNK)
    assert_draws_as_the_reference(logits.to(DEVICE), batch, parameters)


def test_takes_strided_rows() -> None:
    source = torch.Generator().manual_seed(0)
    wide = torch.full((4, 2 * VOCAB), torch.nan)
    wide[:, :VOCAB] = torch.randn(4, VOCAB, generator=source)
    _, batch = contract.inputs(0, rows=4, vocab=VOCAB)
    on_device = wide.to(DEVICE)[:, :VOCAB]
    assert_draws_as_the_reference(on_device, batch, SampleParameters.of(CONFIG))


def assert_draws_as_the_reference(
    logits: torch.Tensor, batch: SampleBatch, parameters: SampleParameters
) -> None:
    """Draw on the device that logits are on; the reference, and ``batch``, are on the host."""
    expected = contract.reference(CONFIG)(logits.cpu(), batch)
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    tensors = {n: value.to(DEVICE) for n, value in values.items() if torch.is_tensor(value)}
    drawn = Sample(parameters)(logits, replace(batch, **tensors))
    assert drawn.tolist() == expected.tolist()
