"""The launches of ``lora`` for up to three sites of one input.

What the host works out for a launch depends on few facts, most of which are the same from layer to
layer and from step to step: it is worked out once and kept, as it takes longer than the launch.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import TYPE_CHECKING, Any, Final

import torch
import triton.language as tl

from plait_triton.lora_cuts import ExpandCut, Products, ShrinkCut
from plait_triton.lora_expand import expand_kernel
from plait_triton.lora_expand_silu import expand_silu_kernel
from plait_triton.lora_parameters import FEW_TILES, token_class
from plait_triton.lora_plan import PLAN_FIELDS
from plait_triton.lora_shrink import gather_kernel, shrink_kernel
from plait_triton.sizes import ceil_div, power_of_two

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_kernels.lora_types import LoraBatch, LoraTable
    from plait_kernels.sites import LoraSite
    from plait_triton.launching import Launcher
    from plait_triton.lora_parameters import ExpandParameters, LoraParameters

MAX_SITES: Final = 3
"""Sites that one launch takes."""

_DTYPES: Final[Mapping[torch.dtype, Any]] = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}

_OF_PLAN: Final = (
    "OUT0", "OUT1", "OUT2", "FEW_TILES", "BLOCKS", "SHARED_BY", "SHARED_BY_MANY",
)  # fmt: skip
"""What shrink must know of expand's cut to write its plan."""


class GroupLaunch:
    """Launches shrink and expand.

    Parameters
    ----------
    sites : tuple[LoraSite, ...]
        1 to ``MAX_SITES``.
    parameters : LoraParameters
    launcher : Launcher
    """

    def __init__(
        self, sites: tuple[LoraSite, ...], parameters: LoraParameters, launcher: Launcher
    ) -> None:
        self._launcher = launcher
        self._parameters = parameters
        self._sites = len(sites)
        self._in_features = sites[0].in_features
        self._out_features = tuple(site.out_features for site in sites)
        self._is_embed = sites[0].group == "embed"
        absent = (0,) * (MAX_SITES - len(sites))
        # Columns of the tables; 0 where there is no site.
        self._index = tuple(site.index for site in sites) + absent
        out = self._out_features + absent
        offset = tuple(site.out_offset for site in sites) + absent
        self._shape = {"SITES": self._sites, "IN": self._in_features}
        self._aligned = gcd(16, *out, *offset)
        self._outputs: dict[str, Any] = {"EMBED": self._is_embed}
        for i in range(MAX_SITES):
            self._outputs |= {f"OUT{i}": out[i], f"OFFSET{i}": offset[i]}
        self._shrink_cuts: dict[tuple[object, ...], ShrinkCut] = {}
        self._expand_cuts: dict[tuple[object, ...], ExpandCut] = {}
        self._silu_cuts: dict[tuple[object, ...], ExpandCut] = {}

    def products(self, x: torch.Tensor, batch: LoraBatch) -> Products:
        """Choose how shrink is cut, and make room for what it gives."""
        tokens, table = x.shape[0], batch.table
        facts = (token_class(tokens), x.dtype, table.dtype, table.tile_rows, table.max_dense > 0)
        cut = self._shrink_cuts.get(facts)
        if cut is None:
            cut = self._shrink_cuts[facts] = self._cut_shrink(x, table, facts)
        # A multiple of 16, so that rows are aligned and one variant is compiled.
        width = -(-max(1, self._sites * table.max_tiles * table.tile_rows) // 16) * 16
        h = torch.empty((cut.pieces, tokens, width), dtype=torch.float32, device=x.device)
        plan = None
        if cut.expand is not None:
            segments = batch.segment_slot.shape[0]
            programs = cut.expand.programs(tokens, segments, self._sites)
            plan = torch.empty((1 + programs, PLAN_FIELDS), dtype=torch.int32, device=x.device)
        return Products(h, plan, cut)

    def shrink(
        self, x: torch.Tensor, products: Products, batch: LoraBatch, *, x_is_known: bool
    ) -> None:
        """Launch shrink, or for ``embed`` the gather that takes its place.

        ``x_is_known``: the linear that reads x has been launched before this.
        """
        table, (h, plan, cut) = batch.table, products
        pieces, tokens, width = h.shape
        segments = batch.segment_slot.shape[0]
        items = tokens // cut.chosen.tokens + segments
        tables = (
            table.arena, table.tile_start, table.tile_count, table.tile_start.stride(0),
            table.tile_count.stride(0), table.tile_offset, table.tile_rank, batch.order,
            batch.segment_slot, batch.segment_start, batch.num_segments, segments, *self._index,
        )  # fmt: skip
        if self._is_embed:
            self._launcher.run(gather_kernel, (items,), x, h, width, *tables, **cut.constants)
            return
        programs = max(items, min(cut.chosen.programs, items * pieces))
        self._launcher.run(
            shrink_kernel, (programs, cut.chosen.chunks),
            x, x.stride(0), h, width, tokens, *tables, plan, X_IS_KNOWN=x_is_known,
            **cut.constants,
        )  # fmt: skip

    def expand(
        self, x: torch.Tensor, products: Products, batch: LoraBatch, y: torch.Tensor
    ) -> None:
        """Launch expand."""
        h, plan, of_shrink = products
        _, tokens, width = h.shape
        cut = of_shrink.expand
        if cut is None:
            facts = (of_shrink.facts, y.dtype)
            cut = self._expand_cuts.get(facts)
            if cut is None:
                cut = self._expand_cuts[facts] = self._cut_expand(
                    tokens, y.dtype, batch.table, of_shrink
                )
        segments = batch.segment_slot.shape[0]
        programs = cut.programs(tokens, segments, self._sites)
        self._launcher.run(
            expand_kernel, (programs,),
            y, y.stride(0), x, x.stride(0), h, width, tokens, *_of_table(batch.table),
            batch.token_weight, batch.order, batch.segment_slot, batch.segment_start,
            batch.num_segments, segments, *self._index, plan, **cut.constants,
        )  # fmt: skip

    def expand_silu(
        self, x: torch.Tensor, products: Products, batch: LoraBatch, y: torch.Tensor
    ) -> torch.Tensor:
        """Launch expand of gate and up with ``silu_and_mul``; returns what that gives."""
        h, _, of_shrink = products
        _, tokens, width = h.shape
        facts = (of_shrink.facts, y.dtype)
        cut = self._silu_cuts.get(facts)
        if cut is None:
            cut = self._silu_cuts[facts] = self._cut_silu(y.dtype, batch.table, of_shrink)
        z = torch.empty((tokens, self._out_features[0]), dtype=y.dtype, device=y.device)
        segments = batch.segment_slot.shape[0]
        # Those of the mixes, then those that take what is left of each block of tokens.
        items = tokens // cut.chosen.tokens + segments + ceil_div(tokens, cut.chosen.tokens)
        self._launcher.run(
            expand_silu_kernel, (items * cut.blocks,),
            y, y.stride(0), z, x, x.stride(0), h, width, tokens, *_of_table(batch.table),
            batch.token_weight, batch.token_slot, batch.order, batch.segment_slot,
            batch.segment_start, batch.num_segments, segments, *self._index[:2], **cut.constants,
        )  # fmt: skip
        return z

    def _cut_shrink(
        self, x: torch.Tensor, table: LoraTable, facts: tuple[object, ...]
    ) -> ShrinkCut:
        is_same = x.dtype == table.dtype
        compute = _DTYPES[x.dtype] if is_same and not self._is_embed else tl.float32
        chosen = self._parameters.shrink(
            tokens=x.shape[0],
            sites=self._sites,
            in_features=self._in_features,
            itemsize=compute.primitive_bitwidth // 8,
        )
        constants: dict[str, Any] = {
            **self._shape,
            "TILE": table.tile_rows,
            "WEIGHT": _DTYPES[table.dtype],
            "TOKENS": chosen.tokens,
            "ROWS": chosen.rows,
            **self._launcher.options(x.device),
        }
        if self._is_embed:
            return ShrinkCut(facts, chosen, 1, None, constants)
        constants |= {
            "COMPUTE": compute,
            "COLUMNS": chosen.columns,
            "MANY_ROWS": chosen.many_rows,
            "MANY_COLUMNS": chosen.many_columns,
            "STEPS": ceil_div(self._in_features, chosen.columns),
            "PROGRAMS": chosen.programs,
            "PIECES": chosen.pieces,
            "CHUNKS": chosen.chunks,
            "ONE": chosen.one,
            "num_warps": chosen.warps,
            "num_stages": chosen.stages,
        }
        cut = ShrinkCut(facts, chosen, chosen.pieces, None, constants)
        if not chosen.plan:
            return cut
        # Of the dtype that y will have.
        expand = self._cut_expand(x.shape[0], x.dtype, table, cut)
        of_plan = {name: expand.constants[name] for name in _OF_PLAN}
        of_plan["OUT_COLUMNS"] = expand.chosen.columns
        of_plan["MOST_PARTS"] = power_of_two(expand.blocks)
        return replace(cut, expand=expand, constants=constants | of_plan)

    def _cut_expand(
        self, tokens: int, dtype: torch.dtype, table: LoraTable, of_shrink: ShrinkCut
    ) -> ExpandCut:
        """Cut expand into y [tokens, columns] of ``dtype``."""
        compute = _compute_dtype(dtype, table)
        chosen = self._parameters.expand(
            tokens=tokens,
            out_features=max(self._out_features),
            itemsize=compute.primitive_bitwidth // 8,
        )
        constants = {
            **self._outputs,
            **self._constants(chosen, compute, table, of_shrink),
            "SITES": self._sites,
            "FEW_TOKENS": chosen.few_tokens,
            "FEW_TILES": FEW_TILES,
            "SHARED_BY": chosen.programs,
            "SHARED_BY_MANY": chosen.many_programs,
        }
        columns = chosen.columns * chosen.blocks
        blocks = sum(ceil_div(out, columns) for out in self._out_features)
        return ExpandCut(chosen, blocks, constants)

    def _cut_silu(self, dtype: torch.dtype, table: LoraTable, of_shrink: ShrinkCut) -> ExpandCut:
        """Cut expand of gate and up of ``dtype`` with ``silu_and_mul``."""
        out_features = self._out_features[0]
        compute = _compute_dtype(dtype, table)
        chosen = self._parameters.expand_silu(
            out_features=out_features, itemsize=compute.primitive_bitwidth // 8
        )
        constants = {"OUT": out_features, **self._constants(chosen, compute, table, of_shrink)}
        return ExpandCut(chosen, ceil_div(out_features, chosen.columns * chosen.blocks), constants)

    def _constants(
        self, chosen: ExpandParameters, compute: Any, table: LoraTable, of_shrink: ShrinkCut
    ) -> dict[str, Any]:
        """Return the keywords that all launches of expand have."""
        return {
            "IN": self._in_features,
            "ALIGNED": self._aligned,
            "DENSE": table.max_dense > 0,
            "TILE": table.tile_rows,
            "WEIGHT": _DTYPES[table.dtype],
            "COMPUTE": compute,
            "SHRINK_TOKENS": of_shrink.chosen.tokens,
            "SHRINK_STEPS": ceil_div(self._in_features, of_shrink.chosen.columns),
            "SHRINK_PROGRAMS": of_shrink.chosen.programs,
            "PIECES": of_shrink.pieces,
            "TOKENS": chosen.tokens,
            "ROWS": chosen.rows,
            "MANY_ROWS": chosen.many_rows,
            "COLUMNS": chosen.columns,
            "BLOCKS": chosen.blocks,
            "num_warps": chosen.warps,
            "num_stages": chosen.stages,
            **self._launcher.options(table.arena.device),
        }


def _compute_dtype(dtype: torch.dtype, table: LoraTable) -> Any:
    """Return in what h and B are multiplied where y is of ``dtype``."""
    return tl.float32 if torch.float32 in (dtype, table.dtype) else _DTYPES[table.dtype]


def _of_table(table: LoraTable) -> tuple[Any, ...]:
    """Return the arguments that every launch of expand takes from the tables."""
    return (
        table.arena, table.tile_start, table.tile_count, table.tile_start.stride(0),
        table.tile_count.stride(0), table.tile_offset, table.tile_rank, table.tile_scale,
        table.dense_start, table.dense_count, table.dense_start.stride(0),
        table.dense_count.stride(0), table.dense_kind, table.dense_offset, table.dense_index,
        table.dense_weight,
    )  # fmt: skip
