"""``attention`` of single queries over the paged cache; nothing is gathered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from plait_cpu.library import DTYPES, load_library

if TYPE_CHECKING:
    from plait_kernels.attention_types import AttentionBatch
    from plait_kernels.config import OpConfig
    from plait_kernels.ops.attention import Attention


@dataclass(frozen=True, eq=False)
class AttentionPlan:
    """What every token of a step reads.

    Attributes
    ----------
    table : Tensor, int32 [rows, max blocks]
    row : Tensor, int32 [tokens]
        Row of each token.
    seen : Tensor, int32 [tokens]
        KV tokens that each token sees.
    splits : int
        Splits of the longest row.
    total : int
        Sum of ``seen``.
    """

    table: torch.Tensor
    row: torch.Tensor
    seen: torch.Tensor
    splits: int
    total: int


class CpuAttention:
    """See ``plait_kernels.ops.attention`` for the contract."""

    def __init__(self, config: OpConfig) -> None:
        library = load_library()
        self._run = library.plait_attention
        self._split = int(library.plait_attention_split())
        scale = config.get("scale")
        self._scale = None if scale is None else float(scale)

    def plan(self, batch: AttentionBatch) -> AttentionPlan:
        """Tell each token's row, and how many keys it sees."""
        start, length = batch.query_start.numpy(), batch.kv_length.numpy()
        queries = np.diff(start)
        row = np.repeat(np.arange(len(length), dtype=np.int32), queries)
        # The queries of a row are its last tokens, and each sees itself.
        place = np.arange(start[-1], dtype=np.int32) - np.repeat(start[:-1], queries)
        seen = (length - queries)[row] + place + 1
        longest = int(seen.max()) if len(seen) else 0
        table = batch.block_table
        return AttentionPlan(
            table=table if table.stride(1) == 1 else table.contiguous(),
            row=torch.from_numpy(row),
            seen=torch.from_numpy(seen.astype(np.int32)),
            splits=-(-longest // self._split),
            total=int(seen.sum()),
        )

    def run(self, q: torch.Tensor, kv: torch.Tensor, plan: AttentionPlan) -> torch.Tensor:
        """Attend in one layer."""
        _, heads, head_dim = q.shape
        _, _, block_size, kv_heads, _ = kv.shape
        tokens = plan.row.shape[0]
        out = torch.empty(q.shape, dtype=q.dtype)
        scratch = torch.empty(tokens, heads, plan.splits, head_dim + 2)
        self._run(
            DTYPES[q.dtype],
            q.data_ptr(),
            q.stride(0),
            q.stride(1),
            kv.data_ptr(),
            kv.stride(0),
            plan.table.data_ptr(),
            plan.table.stride(0),
            plan.row.data_ptr(),
            plan.seen.data_ptr(),
            out.data_ptr(),
            scratch.data_ptr(),
            tokens,
            plan.splits,
            plan.total * kv_heads * head_dim,
            heads,
            kv_heads,
            head_dim,
            block_size,
            head_dim**-0.5 if self._scale is None else self._scale,
            torch.get_num_threads(),
        )
        return out


def make(config: OpConfig) -> Attention:
    """Make the kernel for one config."""
    return CpuAttention(config)
