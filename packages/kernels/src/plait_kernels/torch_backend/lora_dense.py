"""Dense entries of the ``torch`` backend's ``lora``: rows that add, scale or replace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from plait_kernels.lora_types import DENSE_ADD, DENSE_ROW, DENSE_SCALE

if TYPE_CHECKING:
    from plait_kernels.sites import LoraSite
    from plait_kernels.torch_backend.lora_slots import SlotTable


@dataclass(frozen=True, eq=False)
class DenseSite:
    """The dense entries of one (slot, site); every tensor but the indices is a view of the arena.

    Attributes
    ----------
    is_embed : bool
    adds : tuple[tuple[Tensor float32 [out_features], float], ...]
        Rows and their weights.
    scales : tuple[Tensor float32 [out_features], ...]
    index : Tensor, int64 [rows] | None
        Ascending rows of the base weight that are replaced; None where there are none.
    offsets : Tensor, int64 [rows] | None
        Where the new rows begin in ``flat``.
    width : int
        Elements of a new row.
    flat : Tensor [elements of the arena]
    """

    is_embed: bool
    adds: tuple[tuple[torch.Tensor, float], ...]
    scales: tuple[torch.Tensor, ...]
    index: torch.Tensor | None
    offsets: torch.Tensor | None
    width: int
    flat: torch.Tensor

    def replace(self, value: torch.Tensor, x: torch.Tensor) -> None:
        """Put replaced rows into ``value`` float32 [tokens, out_features]."""
        if self.index is None or self.offsets is None:
            return
        span = torch.arange(self.width, device=value.device)
        if not self.is_embed:
            rows = self.flat[self.offsets[:, None] + span].float()
            value.index_copy_(1, self.index, x.float() @ rows.T)
            return
        place = torch.searchsorted(self.index, x).clamp_(max=self.index.numel() - 1)
        hits = (self.index[place] == x).nonzero().flatten()
        rows = self.flat[self.offsets[place[hits], None] + span].float()
        value.index_copy_(0, hits, rows)

    def finish(self, value: torch.Tensor, weight: torch.Tensor | None) -> None:
        """Scale ``value`` and add to it; ``weight`` is float32 [tokens, 1], None = all 1."""
        for row in self.scales:
            value.mul_(row)
        for row, scale in self.adds:
            value.add_(row * scale if weight is None else row * (scale * weight))


def dense_site(tables: SlotTable, slot: int, site: LoraSite) -> DenseSite | None:
    """Describe the dense entries of (slot, site); None where there are none."""
    start, count = int(tables.dense_start[slot, site.index]), tables.dense_count[slot, site.index]
    if not count:
        return None
    arena, device = tables.arena, tables.arena.device
    adds, scales = [], []
    # a later entry of the list replaces what an earlier one put into the same row
    replaced: dict[int, int] = {}
    for entry in range(start, start + int(count)):
        kind, offset = int(tables.dense_kind[entry]), int(tables.dense_offset[entry])
        if kind == DENSE_ROW:
            replaced[int(tables.dense_index[entry])] = offset // tables.itemsize
            continue
        row = arena[offset : offset + 4 * site.out_features].view(torch.float32)
        if kind == DENSE_SCALE:
            scales.append(row)
        else:
            assert kind == DENSE_ADD
            adds.append((row, float(tables.dense_weight[entry])))
    index = sorted(replaced)
    is_embed = site.group == "embed"
    return DenseSite(
        is_embed=is_embed,
        adds=tuple(adds),
        scales=tuple(scales),
        index=torch.tensor(index, device=device) if index else None,
        offsets=torch.tensor([replaced[i] for i in index], device=device) if index else None,
        width=site.out_features if is_embed else site.in_features,
        flat=tables.flat,
    )
