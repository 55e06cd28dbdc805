"""Block sizes of the ``lora`` kernels: functions of shapes that the host knows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import triton

FEW_TOKENS = 8
MANY_TOKENS = 1024
"""Up to so many tokens, decoding and otherwise, the input columns are shared by more programs."""

MANY_OUTPUTS = 8192
"""From so many outputs on there are programs enough for each to take several blocks of them."""


@dataclass(frozen=True)
class ShrinkParameters:
    """How shrink is cut.

    Attributes
    ----------
    tokens : int
        Most tokens of a work item.
    chunks : int
        Programs that share the rank rows of a work item.
    rows, columns : int
        Rank rows and input columns that a program multiplies at a time, where ``chunks`` times
        ``rows`` are enough for all rank rows.
    many_rows, many_columns : int
        The same where they are not.
    splits : int
        Programs that share the input columns; their sums are added by expand.
    one : bool
        Whether work items of one token are multiplied without tensor cores.
    warps, stages : int
    """

    tokens: int
    chunks: int
    rows: int
    columns: int
    many_rows: int
    many_columns: int
    splits: int
    one: bool
    warps: int
    stages: int


@dataclass(frozen=True)
class ExpandParameters:
    """How expand is cut.

    Attributes
    ----------
    tokens : int
        Most tokens of a work item.
    columns, blocks : int
        Columns of y that a program updates at a time, and how often.
    rows, many_rows : int
        Rank rows that are multiplied first, and rows at a time of those that are left.
    warps, stages : int
    """

    tokens: int
    columns: int
    blocks: int
    rows: int
    many_rows: int
    warps: int
    stages: int


def shrink_parameters(
    *, is_decode: bool, tokens: int, sites: int, in_features: int, itemsize: int
) -> ShrinkParameters:
    """Choose how shrink of ``tokens`` tokens is cut; ``itemsize`` is that of the products."""
    if is_decode:
        # Every weight is read once: many programs, long reads.
        chosen = ShrinkParameters(16, sites, 16, 256, 64, 64, 16, False, 4, 3)
        if tokens > FEW_TOKENS:
            rows = max(16, triton.next_power_of_2(16 * sites))
            columns = 128 if rows > 32 else 256
            chosen = replace(chosen, chunks=1, rows=rows, columns=columns, splits=8)
    else:
        # x is read once for all sites.
        rows = max(16, triton.next_power_of_2(16 * sites))
        splits = 16 if tokens <= MANY_TOKENS else 2
        chosen = ShrinkParameters(64, 1, rows, 64, 64, 64, splits, False, 4, 4)
    if itemsize > 2:
        chosen = replace(chosen, columns=chosen.columns // 2, many_columns=chosen.many_columns // 2)
    # No program is left without columns where there are few.
    return replace(chosen, splits=min(chosen.splits, triton.cdiv(in_features, chosen.columns)))


def expand_parameters(*, is_decode: bool, out_features: int, itemsize: int) -> ExpandParameters:
    """Choose how expand is cut; ``out_features`` is the most of a site."""
    if is_decode:
        # Few tokens take few registers, so that many programs read at the same time. What further
        # tokens of an adapter read again comes from the cache.
        blocks = 4 if out_features >= MANY_OUTPUTS else 1
        chosen = ExpandParameters(4, 256, blocks, 16, 16, 4, 1)
    else:
        chosen = ExpandParameters(32, 128, 4, 16, 16, 4, 1)
    if itemsize > 2:
        chosen = replace(chosen, columns=chosen.columns // 2)
    most = max(16, triton.next_power_of_2(out_features))
    return replace(chosen, columns=min(chosen.columns, most))
