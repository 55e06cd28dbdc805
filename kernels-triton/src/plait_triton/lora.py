"""``lora``: one launch each for shrink and expand of a group of sites, whatever the batch.

Both walk work items of a few tokens of one segment. How many there are is data on the device:
programs past the end stop at once, so a captured graph serves any batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import torch
import triton
import triton.language as tl

from plait_triton.language import launch_options
from plait_triton.lora_expand import expand_kernel
from plait_triton.lora_parameters import (
    FEW_TOKENS,
    ExpandParameters,
    ShrinkParameters,
    expand_parameters,
    shrink_parameters,
)
from plait_triton.lora_shrink import gather_kernel, shrink_kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_kernels.config import OpConfig
    from plait_kernels.lora_types import LoraBatch
    from plait_kernels.sites import LoraSite

_MAX_SITES: Final = 3
"""Sites that one launch takes."""

_DTYPES: Final[Mapping[torch.dtype, Any]] = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


class Products(NamedTuple):
    """What shrink of one launch leaves: h, float32 [pieces, tokens, width], and how it was cut."""

    h: torch.Tensor
    cut: ShrinkParameters


class Hidden(NamedTuple):
    """What shrink leaves to expand.

    Attributes
    ----------
    x : Tensor
    products : tuple[Products, ...]
        Of each launch.
    known : torch.cuda.Event | None
        Since when x is known; None: the products are computed.
    """

    x: torch.Tensor
    products: tuple[Products, ...]
    known: torch.cuda.Event | None


@dataclass(frozen=True, eq=False)
class _Launch:
    """Up to three sites of one input.

    Attributes
    ----------
    index : tuple[int, int, int]
        Columns of the tables; 0 where there is no site.
    shape : Mapping[str, Any]
        Compile-time arguments of both kernels.
    outputs : Mapping[str, Any]
        Compile-time arguments of expand.
    """

    sites: int
    in_features: int
    out_features: tuple[int, ...]
    is_embed: bool
    index: tuple[int, int, int]
    shape: Mapping[str, Any]
    outputs: Mapping[str, Any]

    @classmethod
    def of(cls, sites: tuple[LoraSite, ...]) -> _Launch:
        absent = (0,) * (_MAX_SITES - len(sites))
        out = tuple(site.out_features for site in sites)
        offset = tuple(site.out_offset for site in sites)
        is_embed = sites[0].group == "embed"
        outputs: dict[str, Any] = {"ALIGNED": gcd(16, *out, *offset), "EMBED": is_embed}
        for i in range(_MAX_SITES):
            outputs[f"OUT{i}"], outputs[f"OFFSET{i}"] = (out + absent)[i], (offset + absent)[i]
        first, second, third = tuple(site.index for site in sites) + absent
        return cls(
            len(sites),
            sites[0].in_features,
            out,
            is_embed,
            (first, second, third),
            {"SITES": len(sites), "IN": sites[0].in_features},
            outputs,
        )


_Launches: TypeAlias = tuple[_Launch, ...]


class TritonLora:
    """See ``plait_kernels.ops.lora`` for the contract.

    When a few dozen tokens are decoded, shrink runs beside the linear that follows it, which leaves
    a part of the bandwidth unused: on a stream of its own, from when x is known until expand. It is
    launched after the linear, whose programs shall have the first choice of multiprocessors.
    """

    def __init__(self, config: OpConfig) -> None:
        self._is_decode = config.bucket == "decode"
        self._side: torch.cuda.Stream | None = None
        self._known: dict[int, tuple[tuple[LoraSite, ...], _Launches]] = {}

    def shrink(
        self, x: torch.Tensor, sites: tuple[LoraSite, ...], batch: LoraBatch
    ) -> Hidden | None:
        """Compute ``x · A`` of every mix in the batch; None where no mix can do anything."""
        table = batch.table
        if not x.shape[0] or not (table.max_tiles or table.max_dense):
            return None
        if x.stride(-1) != 1:
            x = x.contiguous()
        launches = self._of(sites)
        # Before the linear, which may leave memory behind that it still uses.
        products = tuple(self._products(x, launch, batch) for launch in launches)
        if self._is_decode and x.is_cuda and x.shape[0] > FEW_TOKENS:
            return Hidden(x, products, torch.cuda.current_stream().record_event())
        for launch, product in zip(launches, products, strict=True):
            self._shrink(x, product, launch, batch)
        return Hidden(x, products, None)

    def expand(
        self, h: Hidden | None, sites: tuple[LoraSite, ...], batch: LoraBatch, y: torch.Tensor
    ) -> None:
        """Update the sites' columns of ``y`` in place; see the contract."""
        if h is None:
            return
        launches = self._of(sites)
        if h.known is not None:
            self._shrink_beside(h.x, h.products, h.known, launches, batch)
        for launch, products in zip(launches, h.products, strict=True):
            self._expand(h.x, products, launch, batch, y)

    def shrink_parameters(
        self, *, tokens: int, sites: int, in_features: int, itemsize: int
    ) -> ShrinkParameters:
        """Choose how shrink is cut."""
        return shrink_parameters(
            is_decode=self._is_decode,
            tokens=tokens,
            sites=sites,
            in_features=in_features,
            itemsize=itemsize,
        )

    def expand_parameters(
        self, *, out_features: int, max_tiles: int, itemsize: int
    ) -> ExpandParameters:
        """Choose how expand is cut."""
        return expand_parameters(
            is_decode=self._is_decode,
            out_features=out_features,
            max_tiles=max_tiles,
            itemsize=itemsize,
        )

    def _of(self, sites: tuple[LoraSite, ...]) -> _Launches:
        # By identity: comparing sites costs more than the call that they are for.
        known = self._known.get(id(sites))
        if known is None or known[0] is not sites:
            parts = (sites[i : i + _MAX_SITES] for i in range(0, len(sites), _MAX_SITES))
            known = sites, tuple(_Launch.of(part) for part in parts)
            self._known[id(sites)] = known
        return known[1]

    def _products(self, x: torch.Tensor, launch: _Launch, batch: LoraBatch) -> Products:
        """Choose how shrink is cut, and make room for what it gives."""
        table, tokens = batch.table, x.shape[0]
        # A multiple of 16, so that rows are aligned and one variant is compiled.
        width = -(-max(1, launch.sites * table.max_tiles * table.tile_rows) // 16) * 16
        chosen = self.shrink_parameters(
            tokens=tokens,
            sites=launch.sites,
            in_features=launch.in_features,
            itemsize=_compute_dtype(x, launch, batch).primitive_bitwidth // 8,
        )
        pieces = 1 if launch.is_embed else chosen.pieces
        h = torch.empty((pieces, tokens, width), dtype=torch.float32, device=x.device)
        return Products(h, chosen)

    def _shrink_beside(
        self,
        x: torch.Tensor,
        products: tuple[Products, ...],
        known: torch.cuda.Event,
        launches: _Launches,
        batch: LoraBatch,
    ) -> None:
        """Shrink on a stream of its own from ``known`` on; this stream waits for it."""
        if self._side is None:
            self._side = torch.cuda.Stream(x.device)
        self._side.wait_event(known)
        with torch.cuda.stream(self._side):
            for launch, product in zip(launches, products, strict=True):
                self._shrink(x, product, launch, batch)
        torch.cuda.current_stream().wait_stream(self._side)

    def _shrink(
        self, x: torch.Tensor, products: Products, launch: _Launch, batch: LoraBatch
    ) -> None:
        table, (h, chosen) = batch.table, products
        pieces, tokens, width = h.shape
        segments = batch.segment_slot.shape[0]
        items = tokens // chosen.tokens + segments
        tables = (
            table.arena, table.tile_start, table.tile_count, table.tile_start.stride(0),
            table.tile_count.stride(0), table.tile_offset, table.tile_rank, batch.order,
            batch.segment_slot, batch.segment_start, batch.num_segments, segments, *launch.index,
        )  # fmt: skip
        constants = {
            **launch.shape,
            "TILE": table.tile_rows,
            "WEIGHT": _DTYPES[table.dtype],
            "TOKENS": chosen.tokens,
            "ROWS": chosen.rows,
            **launch_options(x.device),
        }
        if launch.is_embed:
            gather_kernel[(items,)](x, h, width, *tables, **constants)
            return
        programs = max(items, min(chosen.programs, items * pieces))
        shrink_kernel[(programs, chosen.chunks)](
            x,
            x.stride(0),
            h,
            width,
            tokens,
            *tables,
            **constants,
            COMPUTE=_compute_dtype(x, launch, batch),
            COLUMNS=chosen.columns,
            MANY_ROWS=chosen.many_rows,
            MANY_COLUMNS=chosen.many_columns,
            STEPS=triton.cdiv(launch.in_features, chosen.columns),
            PROGRAMS=chosen.programs,
            PIECES=pieces,
            CHUNKS=chosen.chunks,
            ONE=chosen.one,
            num_warps=chosen.warps,
            num_stages=chosen.stages,
        )

    def _expand(
        self,
        x: torch.Tensor,
        products: Products,
        launch: _Launch,
        batch: LoraBatch,
        y: torch.Tensor,
    ) -> None:
        table, (h, cut) = batch.table, products
        pieces, tokens, width = h.shape
        is_float32 = torch.float32 in (y.dtype, table.dtype)
        compute = tl.float32 if is_float32 else _DTYPES[table.dtype]
        chosen = self.expand_parameters(
            out_features=max(launch.out_features),
            max_tiles=table.max_tiles,
            itemsize=compute.primitive_bitwidth // 8,
        )
        segments = batch.segment_slot.shape[0]
        items = tokens // chosen.tokens + segments
        blocks = sum(
            triton.cdiv(out, chosen.columns * chosen.blocks) for out in launch.out_features
        )
        # However many of the items there are: what they share, and a part of each site more.
        programs = min(items * blocks, chosen.programs + items * launch.sites)
        expand_kernel[(programs,)](
            y,
            y.stride(0),
            x,
            x.stride(0),
            h,
            width,
            tokens,
            table.arena,
            table.tile_start,
            table.tile_count,
            table.tile_start.stride(0),
            table.tile_count.stride(0),
            table.tile_offset,
            table.tile_rank,
            table.tile_scale,
            table.dense_start,
            table.dense_count,
            table.dense_start.stride(0),
            table.dense_count.stride(0),
            table.dense_kind,
            table.dense_offset,
            table.dense_index,
            table.dense_weight,
            batch.token_weight,
            batch.order,
            batch.segment_slot,
            batch.segment_start,
            batch.num_segments,
            segments,
            chosen.programs,
            *launch.index,
            **launch.shape,
            **launch.outputs,
            DENSE=table.max_dense > 0,
            TILE=table.tile_rows,
            WEIGHT=_DTYPES[table.dtype],
            COMPUTE=compute,
            SHRINK_TOKENS=cut.tokens,
            SHRINK_STEPS=triton.cdiv(launch.in_features, cut.columns),
            SHRINK_PROGRAMS=cut.programs,
            PIECES=pieces,
            TOKENS=chosen.tokens,
            FEW_TOKENS=chosen.few_tokens,
            ROWS=chosen.rows,
            MANY_ROWS=chosen.many_rows,
            COLUMNS=chosen.columns,
            BLOCKS=chosen.blocks,
            num_warps=chosen.warps,
            num_stages=chosen.stages,
            **launch_options(x.device),
        )


def _compute_dtype(x: torch.Tensor, launch: _Launch, batch: LoraBatch) -> Any:
    """Return the dtype of the operands of shrink's products."""
    is_same = x.dtype == batch.table.dtype
    return _DTYPES[x.dtype] if is_same and not launch.is_embed else tl.float32


def make(config: OpConfig) -> TritonLora:
    """Make the implementation; it takes any config."""
    return TritonLora(config)
