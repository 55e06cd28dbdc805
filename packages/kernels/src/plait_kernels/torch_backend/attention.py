"""``attention`` by torch's scaled_dot_product_attention over gathered blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from plait_kernels.torch_backend.attention_decode import DecodeGroup, group_decode_rows
from plait_kernels.torch_backend.attention_gather import GatherBuffer
from plait_kernels.torch_backend.attention_prefill import PrefillRow, causal_mask
from plait_kernels.torch_backend.attention_settings import AttentionSettings

if TYPE_CHECKING:
    from plait_kernels.attention_types import AttentionBatch
    from plait_kernels.config import OpConfig
    from plait_kernels.ops.attention import Attention


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """The rows of a step, sorted into units that are attended one after another.

    Attributes
    ----------
    units : tuple[DecodeGroup | PrefillRow, ...]
    buffer : GatherBuffer
    tokens : int
        Tokens of all rows.
    """

    units: tuple[DecodeGroup | PrefillRow, ...]
    buffer: GatherBuffer
    tokens: int


class TorchAttention:
    """Rows with one query in a few batched calls, rows with more of them one by one."""

    def __init__(self, config: OpConfig) -> None:
        variants = [name for name in ("window", "softcap", "sinks") if config.get(name) is not None]
        assert not variants, f"selection refuses {variants}"
        scale = config.get("scale")
        shape = [config.get(name) for name in ("block_size", "kv_heads", "head_dim")]
        self._block_shape = tuple(int(size) for size in shape if size is not None)
        assert len(self._block_shape) == 3, "block_size, kv_heads and head_dim are static"
        self._kv_dtype: torch.dtype = getattr(torch, config.dtype)
        self._settings = AttentionSettings(
            block_size=self._block_shape[0],
            dtype=self._kv_dtype,
            scale=None if scale is None else float(scale),
        )

    def plan(self, batch: AttentionBatch) -> AttentionPlan:
        """Sort the rows and do all index work."""
        starts, lengths = batch.query_start.tolist(), batch.kv_length.tolist()
        table, settings = batch.block_table, self._settings
        if table.device.type == "cpu" and settings.dtype == torch.float16:
            # Torch has no fast float16 attention for the CPU: float32 takes a third of the time.
            settings = replace(settings, dtype=torch.float32)
        queries = [stop - start for start, stop in pairwise(starts)]
        decode = [row for row, count in enumerate(queries) if count == 1]
        prefill = [row for row, count in enumerate(queries) if count > 1]
        spans = [(starts[row], starts[row + 1], lengths[row]) for row in prefill]
        mask = causal_mask(spans, settings.dtype, table.device)
        rows = tuple(
            PrefillRow(*span, table[row, : settings.blocks_of(span[2])].long(), mask, settings)
            for row, span in zip(prefill, spans, strict=True)
        )
        groups = group_decode_rows(decode, starts, lengths, table, settings)
        units: tuple[DecodeGroup | PrefillRow, ...] = (*groups, *rows)
        capacity = max((unit.blocks.shape[0] for unit in units), default=0)
        blocks = torch.empty(
            2, capacity, *self._block_shape, dtype=self._kv_dtype, device=table.device
        )
        return AttentionPlan(units, GatherBuffer(blocks, settings.dtype), tokens=starts[-1])

    def run(self, q: torch.Tensor, kv: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        """Attend in one layer."""
        if len(plan.units) == 1 and plan.tokens == q.shape[0]:
            return plan.units[0].attend(q, kv, plan.buffer)
        out = q.new_empty(q.shape)
        for unit in plan.units:
            out[unit.tokens] = unit.attend(q[unit.tokens], kv, plan.buffer)
        return out


def make(config: OpConfig) -> Attention:
    """Make the kernel for one config."""
    return TorchAttention(config)
