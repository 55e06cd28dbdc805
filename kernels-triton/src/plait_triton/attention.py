"""``attention``: a kernel for rows with one query, one for rows with several."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from plait_kernels.attention_types import AttentionBatch
from plait_triton.attention_decode import decode_kernel
from plait_triton.attention_plan import AttentionPlan, Planner, plan_row_counts
from plait_triton.attention_prefill import prefill_kernel
from plait_triton.attention_tiles import (
    DecodeTiles,
    PrefillTiles,
    decode_tiles,
    prefill_tiles,
    static_arguments,
)
from plait_triton.launching import (
    LAUNCHER,
    Launcher,
    Recorder,
    caches_without_memory,
    without_memory,
)
from plait_triton.sizes import power_of_two

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plait_kernels.config import OpConfig
    from plait_kernels.warm_up import EngineFacts
    from plait_triton.variants import Variant

_COMBINED_ELEMENTS = 1024
"""Numbers that a program holds of each kind while it puts the parts of a row together."""


class Attention:
    """See ``plait_kernels.ops.attention`` for the contract.

    Parameters
    ----------
    config : OpConfig
    decode, prefill : DecodeTiles | PrefillTiles | None
        None: chosen for the config.
    """

    def __init__(
        self,
        config: OpConfig,
        decode: DecodeTiles | None = None,
        prefill: PrefillTiles | None = None,
        launcher: Launcher = LAUNCHER,
    ) -> None:
        self._config = config
        self._launcher = launcher
        decode = decode or decode_tiles(config)
        prefill = prefill or prefill_tiles(config)
        static = static_arguments(config)
        group, head_dim = static["GROUP"], static["HEAD_DIM"]
        columns = power_of_two(group * head_dim)
        self._decode = {
            **static,
            "HEADS": max(16, power_of_two(group)),
            "KEYS": decode.keys,
            "COMBINED": max(1, _COMBINED_ELEMENTS // columns),
            "COLUMNS": columns,
            "num_warps": decode.warps,
            "num_stages": decode.stages,
        }
        rows = max(prefill.rows, power_of_two(group))
        self._prefill = {
            **static,
            "ROWS": rows,
            "KEYS": prefill.keys,
            "num_warps": prefill.warps,
            "num_stages": prefill.stages,
        }
        self._queries = rows // group
        self._planner = Planner(
            launcher=launcher,
            decode=decode,
            queries=self._queries,
            window=static["WINDOW"],
            block_size=static["BLOCK_SIZE"],
            kv_heads=static["KV_HEADS"],
            group=group,
            head_dim=head_dim,
        )

    def plan(self, batch: AttentionBatch) -> AttentionPlan:
        """List the work of a step, on the device."""
        return self._planner.plan(batch)

    def run(self, q: torch.Tensor, kv: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        """Attend in one layer, in one launch, or two where a row may have several queries."""
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        tokens = q.shape[0]
        table, parts, blocks = plan.block_table, plan.parts, plan.blocks
        rows, kv_heads = plan.arrived.shape
        if not (tokens and rows):
            return out
        options = self._launcher.options(q.device)
        if blocks.shape[0] > 1:
            most = min(blocks.shape[0] - 1, tokens // self._queries + rows)
            self._launcher.run(
                prefill_kernel,
                (kv_heads, most),
                q,
                kv,
                out,
                table,
                blocks,
                q.stride(0),
                kv.stride(0),
                table.stride(0),
                **self._prefill,
                **options,
            )
        self._launcher.run(
            decode_kernel,
            (kv_heads, parts.shape[0] - 1),
            q,
            kv,
            out,
            table,
            parts,
            plan.arrived,
            plan.sums,
            plan.scales,
            q.stride(0),
            kv.stride(0),
            table.stride(0),
            **self._decode,
            **options,
        )
        return out

    def warm_up(self, facts: EngineFacts) -> Iterable[Variant]:
        """List the variants of the kernels; see ``plait_kernels.warm_up``."""
        recorder, config = Recorder(facts.device), self._config
        attention, dtype = Attention(config, launcher=recorder), getattr(torch, config.dtype)
        names = ("heads", "kv_heads", "head_dim", "block_size")
        heads, kv_heads, head_dim, block_size = (int(config.get(name) or 0) for name in names)
        most = config.max_tokens
        q = without_memory(most, heads + 2 * kv_heads, head_dim, dtype=dtype)[:, :heads]
        for rows in plan_row_counts(most):
            numbers = without_memory(rows + 1, dtype=torch.int32)
            table = without_memory(rows, 2, dtype=torch.int32)
            decode = AttentionBatch(numbers, numbers, table, max_query=1, max_kv=2 * block_size)
            for batch in (decode, replace(decode, max_query=most)):
                plan = attention.plan(batch)
                for kv in caches_without_memory(block_size, kv_heads, head_dim, dtype):
                    attention.run(q, kv, plan)
        return recorder.variants


def make(config: OpConfig) -> Attention:
    """Make the implementation."""
    return Attention(config)
