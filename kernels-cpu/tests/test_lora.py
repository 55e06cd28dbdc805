"""Which part of a batch the backend ``torch`` gets; the results are in the conformance tests."""

from __future__ import annotations

import pytest
import torch

from plait_cpu.lora import CpuLora
from plait_kernels.config import OpConfig
from plait_kernels.lora_types import LoraBatch
from plait_kernels.ops.lora import TOLERANCE, reference
from plait_kernels.ops.lora_inputs import LoraInputs, inputs
from plait_kernels.torch_backend.lora import TorchLora

CONFIG = OpConfig.of("lora", dtype="float32", bucket="decode", max_tokens=64, group="qkv")
SLOTS = (0, -1, 2, 1, 0, 3, 2, -1, 1)


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The slots of the tokens that torch gets, one entry a call of shrink."""
    slots: list[list[int]] = []
    shrink = TorchLora.shrink

    def noting(self: TorchLora, x: torch.Tensor, sites: object, batch: LoraBatch) -> object:
        order = batch.order[: int(batch.segment_start[int(batch.num_segments)])]
        slots.append(sorted(batch.token_slot[order.long()].tolist()))
        return shrink(self, x, sites, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(TorchLora, "shrink", noting)
    return slots


def with_dense(given: LoraInputs, slots: set[int]) -> LoraInputs:
    """Keep the dense entries of some slots only."""
    table = given.batch.table
    for slot in range(table.dense_count.shape[0]):
        if slot not in slots:
            table.dense_count[slot] = 0
        elif not table.dense_count[slot].any():
            table.dense_count[slot, given.sites[0].index] = 1
    return given


@pytest.mark.parametrize(
    ("dense", "expected"),
    [
        (set(), []),
        ({1}, [[1, 1]]),
        ({0, 2}, [[0, 0, 2, 2]]),
        ({0, 1, 2, 3}, [[0, 0, 1, 1, 2, 2, 3]]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_gets_the_tokens_of_dense_mixes_only(
    dense: set[int], expected: list[list[int]], dtype: torch.dtype, handed: list[list[int]]
) -> None:
    given = with_dense(inputs(3, dtype=dtype, token_slot=SLOTS), dense)
    # Weights must be 1 where a mix scales.
    given.batch.token_weight.fill_(1)
    y, expected_y = given.y.clone(), given.y.clone()
    kernel, meaning = CpuLora(), reference(CONFIG)
    h = kernel.shrink(given.x, given.sites, given.batch)
    kernel.expand(h, given.sites, given.batch, y)
    assert handed == expected
    meaning.expand(
        meaning.shrink(given.x, given.sites, given.batch), given.sites, given.batch, expected_y
    )
    rtol, atol = TOLERANCE[str(dtype).removeprefix("torch.")]
    torch.testing.assert_close(y, expected_y, rtol=rtol, atol=atol)
    base = torch.tensor(SLOTS) < 0
    assert torch.equal(y[base], given.y[base])


def test_embedding_sites_are_torchs(handed: list[list[int]]) -> None:
    given = inputs(5, group="embed", out_features=(24,), token_slot=SLOTS, dense=False)
    CpuLora().shrink(given.x, given.sites, given.batch)
    assert handed == [[0, 0, 1, 1, 2, 2, 3]]
