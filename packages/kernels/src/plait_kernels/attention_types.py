"""What the ``attention`` op takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class AttentionBatch:
    """The rows of one step, for ``attention.plan``.

    Attributes
    ----------
    query_start : Tensor, int32 [rows + 1]
        Row i's tokens are ``query_start[i]:query_start[i + 1]`` of q.
    kv_length : Tensor, int32 [rows]
        Tokens in the row's KV, the ones of this step included. The row's queries are its last.
    block_table : Tensor, int32 [rows, max blocks]
        Blocks of each row in order; entries past the row's length are unspecified.
    max_query, max_kv : int
        Upper bounds of query and KV length in this batch, known on the host.
    """

    query_start: torch.Tensor
    kv_length: torch.Tensor
    block_table: torch.Tensor
    max_query: int
    max_kv: int
