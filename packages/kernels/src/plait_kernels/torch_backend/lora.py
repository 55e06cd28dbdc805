"""The ``torch`` backend's ``lora``.

Nothing is copied out of the arena. Tokens are grouped by mix; every rank-row matrix of a module
that is one strided view takes one matmul per mix. Mixes whose adapters are translates of each
other, equal distances apart (as adapters of one configuration are that were loaded in a row),
take one batched matmul together. One-row tiles (``tile_rows=1``) make every module a single
matrix, whatever its rank, and let sites of one shape share the matmul of shrink.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch

from plait_kernels.torch_backend.lora_bundles import Bundle, bundle, single
from plait_kernels.torch_backend.lora_launch import Launch, SiteLaunch, prepare
from plait_kernels.torch_backend.lora_slots import SlotTable

if TYPE_CHECKING:
    from plait_kernels.config import OpConfig
    from plait_kernels.lora_types import LoraBatch
    from plait_kernels.sites import LoraSite

KEPT_BUNDLES = 64
"""Bundles of earlier batches whose prepared calls are kept (views and lists, no weights)."""


KEPT_CALLS = 4096
"""Tuples of sites whose prepared calls are kept for a bundle."""


class _Product(NamedTuple):
    """h of one bundle: x's rows where dense entries need them, and one tensor a matmul."""

    bundle: Bundle
    launch: Launch
    x: torch.Tensor | None
    h: list[torch.Tensor]


Hidden: TypeAlias = list[_Product]
_Launches: TypeAlias = dict[int, tuple["tuple[LoraSite, ...]", Launch | None]]


class TorchLora:
    """See ``plait_kernels.ops.lora`` for the contract.

    What a batch's work list says is read once per ``LoraBatch`` object; a batch is not rewritten
    in place after its first use.
    """

    def __init__(self) -> None:
        self._tables: SlotTable | None = None
        self._launches: OrderedDict[tuple[int, ...], _Launches] = OrderedDict()
        self._batch: LoraBatch | None = None
        self._is_embed = False
        self._bundles: list[tuple[Bundle, _Launches]] = []
        self._content: tuple[object, ...] = ()

    def shrink(self, x: torch.Tensor, sites: tuple[LoraSite, ...], batch: LoraBatch) -> Hidden:
        """Compute ``x · A`` of every mix in the batch; see the contract."""
        is_embed = sites[0].group == "embed"
        products = []
        for part, known in self._plan(batch, is_embed):
            launch = self._launch(part, known, sites)
            if launch is None:
                continue
            rows = part.take(x)
            kept_x = rows if launch.has_dense else None
            if is_embed:
                h = [down.a.index_select(1, rows).T.float() for down in launch.downs]
            else:
                h = _matmuls(rows.float(), part, launch)
            for i, down in enumerate(launch.downs):
                if down.scale is not None:
                    h[i] = (h[i].view(len(part.slots), part.length, -1) * down.scale).view_as(h[i])
                if part.weight is not None:
                    weighted = h[i].view(len(part.slots), part.length, -1) * part.weight
                    h[i] = weighted.view_as(h[i])
            products.append(_Product(part, launch, kept_x, h))
        return products

    def expand(
        self, h: Hidden, sites: tuple[LoraSite, ...], batch: LoraBatch, y: torch.Tensor
    ) -> None:
        """Update the sites' columns of ``y`` in place; see the contract."""
        for part, launch, x, products in h:
            columns = y.narrow(1, launch.column, launch.width)
            if part.first is None:
                value = columns.index_select(0, part.rows).float()
                _apply(value, part, launch, x, products)
                result = value if part.kept is None else value.index_select(0, part.kept)
                columns.index_copy_(0, part.targets, result.to(y.dtype))
            else:
                target = columns.narrow(0, part.first, part.tokens)
                value = target.float()
                _apply(value, part, launch, x, products)
                if value is not target:
                    target.copy_(value)

    def _plan(self, batch: LoraBatch, is_embed: bool) -> list[tuple[Bundle, _Launches]]:
        table, tables = batch.table, self._tables
        if (
            batch is self._batch
            and is_embed == self._is_embed
            and tables is not None
            and tables.is_current(table)
        ):
            return self._bundles
        changed = tables is None or not tables.is_current(table)
        if tables is None or (changed and not tables.refresh(table)):
            tables = self._tables = SlotTable(table)
            self._launches.clear()
        count = int(batch.num_segments)
        starts = batch.segment_start[: count + 1].cpu().numpy()
        numbers = batch.segment_slot[:count].cpu().numpy()
        order = batch.order.cpu().numpy()[: starts[-1] if count else 0]
        weights = batch.token_weight.cpu().numpy()
        content = (
            *(values.tobytes() for values in (starts, numbers, order, weights)),
            is_embed,
        )
        if changed or content != self._content:
            order64 = order.astype(np.int64)
            segments = [
                (tables.slot(number), order64[starts[i] : starts[i + 1]])
                for i, number in enumerate(numbers.tolist())
            ]
            divide = single if is_embed else bundle
            some_weights = None if (weights == 1).all() else weights
            bundles = divide(segments, some_weights, table.arena.device)
            self._bundles = [(part, self._known(part)) for part in bundles]
            while len(self._launches) > KEPT_BUNDLES + len(bundles):
                self._launches.popitem(last=False)
        self._batch, self._is_embed, self._content = batch, is_embed, content
        return self._bundles

    def _known(self, part: Bundle) -> _Launches:
        known = self._launches.setdefault(part.key, {})
        self._launches.move_to_end(part.key)
        return known

    def _launch(self, part: Bundle, known: _Launches, sites: tuple[LoraSite, ...]) -> Launch | None:
        # by identity first: comparing sites costs more than the lookup
        entry = known.get(id(sites))
        if entry is None or entry[0] is not sites:
            assert self._tables is not None
            if len(known) >= KEPT_CALLS:
                known.clear()
            entry = known[id(sites)] = (sites, prepare(self._tables, part, sites))
        return entry[1]


def make(config: OpConfig) -> TorchLora:
    """Make the implementation; it takes any config."""
    return TorchLora()


def _matmuls(rows: torch.Tensor, part: Bundle, launch: Launch) -> list[torch.Tensor]:
    if len(part.slots) == 1:
        return [torch.mm(rows, down.a.float()) for down in launch.downs]
    places = rows.view(len(part.slots), part.length, -1)
    return [torch.bmm(places, down.a.float()) for down in launch.downs]


def _apply(
    value: torch.Tensor,
    part: Bundle,
    launch: Launch,
    x: torch.Tensor | None,
    products: list[torch.Tensor],
) -> None:
    """Update ``value`` float32 [places * length, launch.width] in place."""
    for site in launch.sites:
        columns = value.narrow(1, site.column, site.width)
        if site.dense is None:
            _add(columns, part, site, products)
            continue
        assert x is not None
        site.dense.replace(columns, x)
        _add(columns, part, site, products)
        site.dense.finish(columns, None if part.weight is None else part.weight[0])


def _add(
    columns: torch.Tensor, part: Bundle, site: SiteLaunch, products: list[torch.Tensor]
) -> None:
    for up in site.ups:
        h = products[up.source]
        if h.shape[-1] != up.rows:
            h = h.narrow(-1, up.first, up.rows)
        if len(part.slots) == 1:
            columns.addmm_(h, up.b.float(), alpha=up.alpha)
        else:
            # not baddbmm_: it is slow where the result is not contiguous
            added = torch.bmm(h, up.b.float())
            columns.view(len(part.slots), part.length, site.width).add_(added, alpha=up.alpha)
