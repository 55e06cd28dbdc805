"""The ``lora`` op: add what each token's mix of adapters changes to the output of a projection.

An implementation is an object with two calls, and may have a third. All take ``sites``, a tuple of
``LoraSite`` that share an input, and ``batch``, a ``LoraBatch`` (see ``plait_kernels.lora_types``
for what the tables mean).

``shrink(x, sites, batch) -> h``
    ``x`` is [tokens, in_features] in the activations' dtype; of an ``embed`` site it is token ids,
    int64 [tokens]. It is not written, nor may it be until ``expand`` has been called: between the
    two calls the linear of the sites computes y from x, and the implementation may wait for its
    launch. ``h`` is the implementation's own and holds what ``expand`` needs, ``x`` included where
    there are dense entries. Sums are float32.

``expand(h, sites, batch, y) -> None``
    ``y`` is [tokens, columns] in the activations' dtype and is updated in place; its rows may be
    strided, its columns are adjacent. ``sites`` is the tuple that ``shrink`` was given. Site s
    owns columns ``out_offset : out_offset + out_features``; no other column is
    written. Sums are float32 and are rounded to y's dtype once.

``expand_silu_and_mul(h, sites, batch, y) -> z``, if it has it
    In place of ``expand`` of a ``gate_up`` group: the columns of ``y`` are those of its two sites,
    the gate's first. ``z`` [tokens, out_features], new memory in y's dtype, is what the op
    ``silu_and_mul`` makes of y as ``expand`` would leave it, which may be rounded to y's dtype or
    stay float32. ``y`` is used up: what it holds afterwards is unspecified. A model calls it if one
    backend was chosen for both ops.

For a token of slot n >= 0 whose mix has the weight w (``token_weight``), at site s:

1. Every DENSE_ROW entry, in the order of the list, replaces a row of the base weight:
   of an ``embed`` site ``y = row`` where the token id is ``dense_index``;
   of any other ``y[dense_index] = x · row``.
2. ``Δ = Σ over tiles i:  w · tile_scale[i] · (x · A_iᵀ) · B_iᵀ``, over the first ``tile_rank[i]``
   rows of the tile only; what the other rows hold may be anything, NaN included. Of an ``embed``
   site ``x · A_iᵀ`` is the column of A_i that the token id names.
3. ``y = g ⊙ (y + Δ) + w · b``, g the product of the DENSE_SCALE rows and b the sum of
   ``dense_weight`` times the DENSE_ADD rows.

A token of slot -1, and a site at which the token's mix has neither tiles nor dense entries, keep
y bit for bit. DENSE_SCALE is how DoRA's output scale is served, DENSE_ADD a trained bias.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import torch

from plait_kernels.lora_types import DENSE_ADD, DENSE_ROW, DENSE_SCALE, LoraBatch, LoraTable
from plait_kernels.ops.contract import Accuracy, Op
from plait_kernels.ops.lora_inputs import inputs
from plait_kernels.ops.silu_and_mul import silu_and_mul

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.sites import LoraSite

__all__ = ["OP", "TOLERANCE", "ReferenceLora", "inputs", "reference"]

TOLERANCE = {
    "float32": (1e-4, 1e-4),
    "bfloat16": (1.6e-2, 1e-2),
    "float16": (2e-3, 2e-3),
}
"""(rtol, atol) by dtype of the activations, for sums whose terms are of the order of 1."""

Hidden: TypeAlias = tuple[torch.Tensor, dict[tuple[int, int, int], torch.Tensor]]
"""The reference's h: x, and ``x · A_iᵀ`` [rank of the tile] by (token, site index, tile)."""


class ReferenceLora:
    """The meaning of the op, token by token."""

    def shrink(self, x: torch.Tensor, sites: tuple[LoraSite, ...], batch: LoraBatch) -> Hidden:
        """Compute ``x · A_iᵀ`` for every token, site and tile.

        Parameters
        ----------
        x : Tensor [tokens, in_features], or int64 [tokens] of an ``embed`` site
        sites : tuple[LoraSite, ...]
        batch : LoraBatch

        Returns
        -------
        Hidden
        """
        products = {}
        for token, slot in enumerate(batch.token_slot.tolist()):
            for site in sites:
                for tile in _entries(batch.table, slot, site, "tile"):
                    a, _ = _tile(batch.table, site, tile)
                    column = a[:, x[token]] if site.group == "embed" else a @ x[token].double()
                    products[token, site.index, tile] = column
        return x, products

    def expand(
        self, h: Hidden, sites: tuple[LoraSite, ...], batch: LoraBatch, y: torch.Tensor
    ) -> None:
        """Update the sites' columns of ``y`` in place.

        Parameters
        ----------
        h : Hidden
            What ``shrink`` returned for the same batch.
        sites : tuple[LoraSite, ...]
        batch : LoraBatch
        y : Tensor [tokens, columns]
        """
        x, products = h
        table = batch.table
        for token, slot in enumerate(batch.token_slot.tolist()):
            weight = batch.token_weight[token]
            for site in sites:
                tiles = _entries(table, slot, site, "tile")
                dense = _entries(table, slot, site, "dense")
                if not tiles and not dense:
                    continue
                out = y[token, site.out_offset : site.out_offset + site.out_features]
                value = out.double()
                for entry in dense:
                    if table.dense_kind[entry] == DENSE_ROW:
                        row, index = _dense_row(table, site, entry), table.dense_index[entry]
                        if site.group != "embed":
                            value[index] = x[token].double() @ row
                        elif x[token] == index:
                            value = row.clone()
                for tile in tiles:
                    _, b = _tile(table, site, tile)
                    scale = weight * table.tile_scale[tile]
                    value += (scale * products[token, site.index, tile]) @ b
                for entry in dense:
                    if table.dense_kind[entry] == DENSE_SCALE:
                        value *= _dense_row(table, site, entry)
                for entry in dense:
                    if table.dense_kind[entry] == DENSE_ADD:
                        value += weight * table.dense_weight[entry] * _dense_row(table, site, entry)
                out.copy_(value)

    def expand_silu_and_mul(
        self, h: Hidden, sites: tuple[LoraSite, ...], batch: LoraBatch, y: torch.Tensor
    ) -> torch.Tensor:
        """Compute ``silu(gate) · up`` of what ``expand`` makes of ``y``.

        Parameters
        ----------
        h : Hidden
            What ``shrink`` returned for the same batch.
        sites : tuple[LoraSite, LoraSite]
            Gate, up: columns 0 to n and n to 2n of y.
        batch : LoraBatch
        y : Tensor [tokens, 2 · n]

        Returns
        -------
        Tensor [tokens, n]
        """
        exact = y.double()
        self.expand(h, sites, batch, exact)
        return silu_and_mul(exact).to(y.dtype)


def reference(config: OpConfig) -> ReferenceLora:
    """Make the reference implementation; it takes any config."""
    return ReferenceLora()


def _entries(table: LoraTable, slot: int, site: LoraSite, kind: str) -> range:
    if slot < 0:
        return range(0)
    starts, counts = (
        (table.tile_start, table.tile_count)
        if kind == "tile"
        else (table.dense_start, table.dense_count)
    )
    start = int(starts[slot, site.index])
    return range(start, start + int(counts[slot, site.index]))


def _tile(table: LoraTable, site: LoraSite, tile: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A [rank, in_features] and Bᵀ [rank, out_features] of a tile, float64."""
    t, rank = table.tile_rows, int(table.tile_rank[tile])
    offset = int(table.tile_offset[tile])
    a = _read(table, offset, table.dtype, (t, site.in_features))
    b = _read(table, offset + a.nbytes, table.dtype, (t, site.out_features))
    return a[:rank].double(), b[:rank].double()


def _dense_row(table: LoraTable, site: LoraSite, entry: int) -> torch.Tensor:
    """Return the row of a dense entry, float64."""
    replaces_row = int(table.dense_kind[entry]) == DENSE_ROW
    dtype = table.dtype if replaces_row else torch.float32
    of_input = replaces_row and site.group != "embed"
    width = site.in_features if of_input else site.out_features
    return _read(table, int(table.dense_offset[entry]), dtype, (width,)).double()


def _read(
    table: LoraTable, offset: int, dtype: torch.dtype, shape: tuple[int, ...]
) -> torch.Tensor:
    nbytes = math.prod(shape) * dtype.itemsize
    return table.arena[offset : offset + nbytes].view(dtype).view(shape)


OP = Op("lora", reference, inputs, TOLERANCE, Accuracy())
