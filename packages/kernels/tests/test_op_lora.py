"""The ``lora`` op's reference against dense matrices and against peft."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest
import torch
from peft import LoraConfig, get_peft_model

from plait_kernels.config import OpConfig
from plait_kernels.lora_types import (
    DENSE_ADD,
    DENSE_ROW,
    DENSE_SCALE,
    LoraBatch,
    LoraTable,
)
from plait_kernels.ops.lora import OP, reference
from plait_kernels.sites import LoraSite
from plait_kernels.torch_backend.lora import make

CONFIG = OpConfig.of("lora", dtype="float32", bucket="decode", max_tokens=64, group="o")
Factory: TypeAlias = Callable[[OpConfig], Any]

FACTORIES: tuple[Factory, ...] = (reference, make)


@dataclass
class Writer:
    """Writes one mix into slot 0 of a table, tile by tile."""

    site: LoraSite
    tile_rows: int = 8
    pieces: list[torch.Tensor] = field(default_factory=list)
    tiles: list[tuple[int, int, float]] = field(default_factory=list)
    dense: list[tuple[int, int, int, float]] = field(default_factory=list)

    def store(self, values: torch.Tensor) -> int:
        start = sum(piece.numel() for piece in self.pieces)
        raw = values.contiguous().flatten().view(torch.uint8)
        self.pieces += [raw, torch.full((-raw.numel() % 64,), 0xFF, dtype=torch.uint8)]
        return start

    def module(self, a: torch.Tensor, b: torch.Tensor, scale: float) -> None:
        for first in range(0, a.shape[0], self.tile_rows):
            rows = min(self.tile_rows, a.shape[0] - first)
            tile = torch.full((self.tile_rows, a.shape[1] + b.shape[0]), torch.nan)
            tile[:rows] = torch.cat((a, b.T), 1)[first : first + rows]
            parts = torch.split(tile, [a.shape[1], b.shape[0]], 1)
            flat = torch.cat([part.flatten() for part in parts])
            self.tiles.append((self.store(flat), rows, scale))

    def row(self, kind: int, row: torch.Tensor, index: int = 0, weight: float = 1.0) -> None:
        self.dense.append((kind, self.store(row), index, weight))

    def batch(self, token_slot: list[int], weight: list[float] | None = None) -> LoraBatch:
        columns = self.site.index + 1
        counts = [torch.zeros(1, columns, dtype=torch.int32) for _ in range(4)]
        counts[1][0, self.site.index] = len(self.tiles)
        counts[3][0, self.site.index] = len(self.dense)
        offset, rank, scale = zip(*(self.tiles or [(0, 1, 0.0)]), strict=True)
        kind, row, index, dense_weight = zip(*(self.dense or [(0, 0, 0, 0.0)]), strict=True)
        table = LoraTable(
            arena=torch.cat(self.pieces) if self.pieces else torch.empty(64, dtype=torch.uint8),
            dtype=torch.float32,
            tile_rows=self.tile_rows,
            tile_start=counts[0],
            tile_count=counts[1],
            tile_offset=torch.tensor(offset),
            tile_rank=torch.tensor(rank, dtype=torch.int32),
            tile_scale=torch.tensor(scale),
            dense_start=counts[2],
            dense_count=counts[3],
            dense_kind=torch.tensor(kind, dtype=torch.int32),
            dense_offset=torch.tensor(row),
            dense_index=torch.tensor(index, dtype=torch.int32),
            dense_weight=torch.tensor(dense_weight),
            max_tiles=len(self.tiles),
            max_dense=len(self.dense),
        )
        served = [token for token, slot in enumerate(token_slot) if slot == 0]
        return LoraBatch(
            table=table,
            token_slot=torch.tensor(token_slot, dtype=torch.int32),
            token_weight=torch.tensor(weight or [1.0] * len(token_slot)),
            order=torch.tensor(
                [*served, *[-7] * (len(token_slot) - len(served))], dtype=torch.int32
            ),
            segment_slot=torch.zeros(1, dtype=torch.int32),
            segment_start=torch.tensor([0, len(served)], dtype=torch.int32),
            num_segments=torch.tensor([1 if served else 0], dtype=torch.int32),
        )


def linear_site(in_features: int = 20, out_features: int = 12) -> LoraSite:
    return LoraSite(1, "layers.0.self_attn.o_proj", "o", in_features, out_features)


def apply(
    factory: Factory, x: torch.Tensor, site: LoraSite, batch: LoraBatch, y: torch.Tensor
) -> torch.Tensor:
    implementation = factory(CONFIG)
    result = y.clone()
    implementation.expand(implementation.shrink(x, (site,), batch), (site,), batch, result)
    return result


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("tile_rows", [1, 8])
def test_mix_equals_merged_weights(factory: Factory, tile_rows: int) -> None:
    site = linear_site()
    writer = Writer(site, tile_rows)
    weight = torch.randn(12, 20)
    merged = weight.clone()
    for rank, scale in ((3, 0.5), (8, -2.0), (17, 1.25)):
        a, b = torch.randn(rank, 20), torch.randn(12, rank)
        writer.module(a, b, scale)
        merged += scale * b @ a
    x = torch.randn(5, 20)
    slots, scales = [0, -1, 0, 0, -1], [1.0, 3.0, 0.5, -1.0, 1.0]
    got = apply(factory, x, site, writer.batch(slots, scales), x @ weight.T)
    for token, (slot, scale) in enumerate(zip(slots, scales, strict=True)):
        served = weight if slot < 0 else weight + scale * (merged - weight)
        torch.testing.assert_close(got[token], served @ x[token], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("use_rslora", [False, True])
def test_linear_equals_peft(factory: Factory, use_rslora: bool) -> None:
    base = torch.nn.Sequential(torch.nn.Linear(20, 12))
    config = LoraConfig(
        r=9, lora_alpha=5, target_modules=["0"], use_rslora=use_rslora, init_lora_weights=False
    )
    model = get_peft_model(base, config).eval()
    layer = model.base_model.model[0]
    writer = Writer(linear_site())
    writer.module(
        layer.lora_A["default"].weight.data,
        layer.lora_B["default"].weight.data,
        layer.scaling["default"],
    )
    x = torch.randn(4, 20)
    with torch.no_grad():
        got = apply(factory, x, writer.site, writer.batch([0] * 4), layer.base_layer(x))
        torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factory", FACTORIES)
def test_embedding_equals_peft(factory: Factory) -> None:
    base = torch.nn.Sequential(torch.nn.Embedding(30, 12))
    config = LoraConfig(r=5, lora_alpha=9, target_modules=["0"], init_lora_weights=False)
    model = get_peft_model(base, config).eval()
    layer = model.base_model.model[0]
    site = LoraSite(0, "embed_tokens", "embed", 30, 12)
    writer = Writer(site)
    writer.module(
        layer.lora_embedding_A["default"].data,
        layer.lora_embedding_B["default"].data,
        layer.scaling["default"],
    )
    ids = torch.tensor([3, 29, 3, 0])
    with torch.no_grad():
        got = apply(factory, ids, site, writer.batch([0] * 4), layer.base_layer(ids))
        torch.testing.assert_close(got, model(ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factory", FACTORIES)
def test_output_scale_and_added_row_serve_dora_with_a_bias(factory: Factory) -> None:
    base = torch.nn.Sequential(torch.nn.Linear(20, 12))
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["0"], use_dora=True, init_lora_weights=False
    )
    model = get_peft_model(base, config).eval()
    layer = model.base_model.model[0]
    magnitude = layer.lora_magnitude_vector["default"].weight.data
    magnitude *= torch.rand(12) + 0.5
    a, b = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
    scale, weight = layer.scaling["default"], layer.base_layer.weight.data
    gain = magnitude / (weight + scale * b @ a).norm(dim=1)
    writer = Writer(linear_site())
    writer.module(a, b, scale)
    writer.row(DENSE_ADD, layer.base_layer.bias.data, weight=1.0)
    writer.row(DENSE_SCALE, gain)
    x = torch.randn(4, 20)
    with torch.no_grad():
        got = apply(factory, x, writer.site, writer.batch([0] * 4), x @ weight.T)
        torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factory", FACTORIES)
def test_added_rows_take_both_weights(factory: Factory) -> None:
    writer = Writer(linear_site())
    rows = torch.randn(2, 12)
    writer.row(DENSE_ADD, rows[0], weight=0.5)
    writer.row(DENSE_ADD, rows[1], weight=-2.0)
    x, y = torch.randn(3, 20), torch.randn(3, 12)
    got = apply(factory, x, writer.site, writer.batch([0, -1, 0], [1.0, 1.0, 3.0]), y)
    added = 0.5 * rows[0] - 2 * rows[1]
    torch.testing.assert_close(got, y + torch.tensor([[1.0], [0.0], [3.0]]) * added)


@pytest.mark.parametrize("factory", FACTORIES)
def test_replaced_rows_of_a_projection(factory: Factory) -> None:
    weight, a, b = torch.randn(12, 20), torch.randn(2, 20), torch.randn(12, 2)
    rows = torch.randn(3, 20)
    changed = weight.clone()
    changed[4], changed[11] = rows[2], rows[1]
    writer = Writer(linear_site())
    writer.module(a, b, 0.5)
    for index, row in ((4, rows[0]), (11, rows[1]), (4, rows[2])):
        writer.row(DENSE_ROW, row, index)
    x = torch.randn(3, 20)
    got = apply(factory, x, writer.site, writer.batch([0, 0, -1]), x @ weight.T)
    torch.testing.assert_close(got[:2], x[:2] @ (changed + 0.5 * b @ a).T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[2], weight @ x[2])


@pytest.mark.parametrize("factory", FACTORIES)
def test_replaced_rows_of_the_embedding(factory: Factory) -> None:
    embedding, row = torch.randn(30, 12), torch.randn(12)
    site = LoraSite(0, "embed_tokens", "embed", 30, 12)
    writer = Writer(site)
    writer.row(DENSE_ROW, torch.randn(12), 2)
    writer.row(DENSE_ROW, row, 7)
    ids = torch.tensor([7, 1, 29, 7])
    got = apply(factory, ids, site, writer.batch([0, 0, 0, -1]), embedding[ids])
    expected = embedding[ids]
    expected[0] = row
    assert torch.equal(got, expected)


@pytest.mark.parametrize("factory", FACTORIES)
def test_no_tokens(factory: Factory) -> None:
    writer = Writer(linear_site())
    writer.module(torch.randn(4, 20), torch.randn(12, 4), 1.0)
    got = apply(factory, torch.randn(0, 20), writer.site, writer.batch([]), torch.randn(0, 12))
    assert got.shape == (0, 12)


def test_op_is_complete() -> None:
    assert OP.name == "lora"
    assert OP.reference is reference
    assert set(OP.tolerance) == {"float32", "bfloat16", "float16"}
