"""The calls of ``lora`` that an engine can make: one of each kind that is launched otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from plait_kernels.lora_types import LoraBatch, LoraTable
from plait_triton.launching import rows_without_memory, without_memory
from plait_triton.lora_parameters import token_counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plait_kernels.config import OpConfig
    from plait_kernels.sites import LoraSite
    from plait_kernels.warm_up import LoraFacts


class LoraCall(NamedTuple):
    """What ``shrink`` and ``expand`` take, without memory."""

    x: torch.Tensor
    sites: tuple[LoraSite, ...]
    batch: LoraBatch
    y: torch.Tensor


def calls(config: OpConfig, facts: LoraFacts, sites: tuple[LoraSite, ...]) -> Iterator[LoraCall]:
    """List the calls of one config with sites of one shape."""
    dtype, is_embed = getattr(torch, config.dtype), sites[0].group == "embed"
    columns = max(site.out_offset + site.out_features for site in sites)
    for tokens in token_counts(config.max_tokens):
        y = without_memory(tokens, columns, dtype=dtype)
        xs = rows_without_memory(tokens, sites[0].in_features, dtype)
        if is_embed:
            xs = (without_memory(tokens, dtype=torch.int64),)
        for has_dense in (False, True) if facts.has_dense else (False,):
            batch = _batch(tokens, _table(facts, len(sites), has_dense))
            yield from (LoraCall(x, sites, batch, y) for x in xs)


def _table(facts: LoraFacts, sites: int, has_dense: bool) -> LoraTable:
    ranges = without_memory(1, sites, dtype=torch.int32)
    offset, number, value = (
        without_memory(1, dtype=dtype) for dtype in (torch.int64, torch.int32, torch.float32)
    )
    return LoraTable(
        arena=without_memory(1, dtype=torch.uint8),
        dtype=facts.dtype,
        tile_rows=facts.tile_rows,
        tile_start=ranges,
        tile_count=ranges,
        tile_offset=offset,
        tile_rank=number,
        tile_scale=value,
        dense_start=ranges,
        dense_count=ranges,
        dense_kind=number,
        dense_offset=offset,
        dense_index=number,
        dense_weight=value,
        max_tiles=1,
        max_dense=int(has_dense),
    )


def _batch(tokens: int, table: LoraTable) -> LoraBatch:
    of_tokens, of_segments = (without_memory(n, dtype=torch.int32) for n in (tokens, 2))
    return LoraBatch(
        table=table,
        token_slot=of_tokens,
        token_weight=without_memory(tokens, dtype=torch.float32),
        order=of_tokens,
        segment_slot=of_segments,
        segment_start=of_segments,
        num_segments=of_segments[:1],
    )
