"""Cases of ``attention``: (query length, KV length) of the rows of a step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from plait_kernels.config import BUCKETS, Scalar
from plait_kernels.ops import load_op
from plait_testing.case import Case, OpCases

if TYPE_CHECKING:
    import torch

MIXED = ((1, 5), (3, 3), (1, 1), (0, 4), (2, 9), (1, 12), (0, 0), (6, 6), (1, 8))
DECODE = ((1, 5), (1, 1), (1, 8), (1, 19), (1, 6))


def case(
    name: str,
    rows: tuple[tuple[int, int], ...],
    *,
    heads: int = 6,
    kv_heads: int = 2,
    head_dim: int = 16,
    block_size: int = 4,
    scale: float | None = 0.3,
    further_tokens: int = 0,
    loose_bounds: bool = False,
    has_reference: bool = True,
    **variant: Scalar,
) -> Case:
    """Make a case; a step with a row of several queries occurs in bucket prefill only."""
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "block_size": block_size}
    inputs = {**shape, "rows": rows, "further_tokens": further_tokens, "loose_bounds": loose_bounds}
    buckets = BUCKETS if all(queries <= 1 for queries, _ in rows) else BUCKETS[1:]
    params = {**shape, "scale": scale, **variant}
    return Case(name, params, inputs, 128, buckets, has_reference=has_reference)


def make(seed: int, *, further_tokens: int, loose_bounds: bool, **arguments: Any) -> Any:
    """Make the arguments; ``further_tokens`` follow those of the last row.

    With ``loose_bounds`` the batch says that a row may have as many queries as there are tokens,
    and as many keys as its blocks hold, as a step does that is padded.
    """
    made: Any = load_op("attention").inputs(seed, **arguments)
    q, kv, batch = made
    if loose_bounds:
        longest = batch.block_table.shape[1] * arguments["block_size"]
        most = q.shape[0] + further_tokens
        batch = dataclasses.replace(batch, max_query=most, max_kv=longest)
    if further_tokens:
        padded = q.new_full((q.shape[0] + further_tokens, *q.shape[1:]), 0.5)
        padded[: q.shape[0]] = q
        q = padded
    return q, kv, batch


def call(kernel: Any, arguments: Any) -> torch.Tensor:
    """Plan and run one layer."""
    q, kv, batch = arguments
    out: torch.Tensor = kernel.run(q, kv, kernel.plan(batch))
    return out


def specified(arguments: Any, output: torch.Tensor) -> torch.Tensor:
    """Leave out what lies past the last row."""
    return output[: int(arguments[2].query_start[-1])]


def magnitude(case: Case, arguments: Any, exact: torch.Tensor) -> torch.Tensor:
    """Return what attention makes of the magnitudes of the values."""
    q, kv, batch = arguments
    positive = kv.clone()
    positive[:, 1].abs_()
    kernel = load_op("attention").reference(case.config("attention", "float32", "prefill"))
    return specified(arguments, call(kernel, (q, positive, batch)))


CASES = OpCases(
    "attention",
    (
        case("no_rows", ()),
        case("no_queries", ((0, 4), (0, 0))),
        case("one_decode_row", ((1, 7),)),
        case("first_token", ((1, 1),)),
        case("decode", DECODE),
        case("decode_full_blocks", ((1, 8), (1, 4))),
        case("decode_long", ((1, 3), (1, 301), (1, 77)), block_size=16),
        case("decode_and_further_tokens", DECODE, further_tokens=3),
        case("one_prompt", ((11, 11),)),
        case("prompts", ((5, 5), (9, 9), (4, 4))),
        case("continued_prompts", ((5, 9), (3, 20), (8, 12))),
        case("long_prompt", ((70, 70), (33, 101)), heads=3, kv_heads=1, block_size=16),
        case("mixed", MIXED),
        case("mixed_and_further_tokens", MIXED, further_tokens=2),
        case("mixed_and_loose_bounds", MIXED, further_tokens=50, loose_bounds=True),
        case("usual_scale", MIXED, scale=None),
        case("one_head", MIXED, heads=1, kv_heads=1, head_dim=24),
        case("no_sharing", MIXED, heads=3, kv_heads=3),
        case("one_kv_head", MIXED, heads=7, kv_heads=1),
        case("wide_heads", MIXED, heads=9, kv_heads=3, head_dim=80, block_size=16),
        case("odd_head_dim", MIXED, head_dim=17),
        case("odd_block", MIXED, block_size=5),
        case("window", MIXED, window=3),
        case("softcap", MIXED, softcap=2.5),
        case("window_and_softcap", DECODE, window=2, softcap=1.5),
        case("sinks", MIXED, sinks=True, has_reference=False),
    ),
    ("q", "kv", "batch"),
    call,
    specified=specified,
    magnitude=magnitude,
    is_contiguous=True,
    make=make,
)
