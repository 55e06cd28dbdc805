"""Cases of ``attention``: (query length, KV length) of the rows of a step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from plait_kernels.config import BUCKETS, Scalar
from plait_kernels.ops import load_op
from plait_testing.case import Case, OpCases
from plait_testing.cases.rms_norm import MANY
from plait_testing.usual_calls import MANY_TIMES, usual_calls

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from plait_testing.calls import Calls

MIXED = ((1, 5), (3, 3), (1, 1), (0, 4), (2, 9), (1, 12), (0, 0), (6, 6), (1, 8))
SMALL: dict[str, Any] = {"heads": 2, "kv_heads": 1, "head_dim": 8, "block_size": 16}
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
    q_scale: float = 1.0,
    layers: int = 1,
    bad_row: int = -1,
    further: tuple[Mapping[str, Any], ...] = (),
    is_large: bool = False,
    keeps_outputs: bool = False,
    **variant: Scalar,
) -> Case:
    """Make a case; a step with a row of several queries occurs in bucket prefill only."""
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "block_size": block_size}
    inputs = {**shape, "rows": rows, "further_tokens": further_tokens, "loose_bounds": loose_bounds}
    inputs |= {"q_scale": q_scale, "layers_run": layers, "bad_row": bad_row}
    every = [rows, *(changed.get("rows", rows) for changed in further)]
    is_decode = all(queries <= 1 for step in every for queries, _ in step)
    return Case(
        name,
        {**shape, "scale": scale, **variant},
        inputs,
        further,
        max(128, *(sum(queries for queries, _ in step) for step in every)),
        BUCKETS if is_decode else BUCKETS[1:],
        has_reference=has_reference,
        has_nan=bad_row >= 0,
        is_large=is_large,
        keeps_outputs=keeps_outputs,
    )


def make(
    seed: int,
    *,
    further_tokens: int,
    loose_bounds: bool,
    q_scale: float,
    layers_run: int,
    bad_row: int,
    **arguments: Any,
) -> Any:
    """Make the arguments; ``further_tokens`` follow those of the last row.

    With ``loose_bounds`` the batch says that a row may have as many queries as there are tokens,
    and as many keys as its blocks hold, as a step does that is padded. Of two ``layers_run``, the
    second has arguments of its own. The first key and value of ``bad_row`` are NaN.
    """
    made: Any = load_op("attention").inputs(seed, **arguments)
    q, kv, batch = made
    q.mul_(q_scale)
    if bad_row >= 0:
        kv[batch.block_table[bad_row, 0], :, 0] = float("nan")
    if loose_bounds:
        longest = batch.block_table.shape[1] * arguments["block_size"]
        most = q.shape[0] + further_tokens
        batch = dataclasses.replace(batch, max_query=most, max_kv=longest)
    if further_tokens:
        padded = q.new_full((q.shape[0] + further_tokens, *q.shape[1:]), 0.5)
        padded[: q.shape[0]] = q
        q = padded
    if layers_run == 2:
        return q, kv, batch, -1.3 * q, -0.7 * kv
    return q, kv, batch


def call(kernel: Any, arguments: Any) -> torch.Tensor:
    """Plan and run one layer, or two."""
    return run(kernel, plan(kernel, arguments))


def plan(kernel: Any, arguments: Any) -> Any:
    """Plan: what one plan is for are all layers of a step."""
    return arguments, kernel.plan(arguments[2])


def run(kernel: Any, planned: Any) -> torch.Tensor:
    """Run every layer; their outputs follow one another."""
    import torch

    (q, kv, _, *further), made = planned
    out: torch.Tensor = kernel.run(q, kv, made)
    if not further:
        return out
    next_q, next_kv = further
    return torch.cat((out, kernel.run(next_q, next_kv, made)))


def specified(arguments: Any, output: torch.Tensor) -> torch.Tensor:
    """Leave out what lies past the last row."""
    return output if len(arguments) > 3 else output[: int(arguments[2].query_start[-1])]


def magnitude(case: Case, arguments: Any, exact: torch.Tensor) -> torch.Tensor:
    """Return what attention makes of the magnitudes of the values."""
    positive = [values.clone() for values in arguments[1::3]]
    for values in positive:
        values[:, 1].abs_()
    q, _, batch, *further = arguments
    replaced = (q, positive[0], batch, *further[:1], *positive[1:])
    kernel = load_op("attention").reference(case.config("attention", "float32", "prefill"))
    # What float32 loses of a large score is a larger part of its exponential.
    q_scale = float(case.inputs["q_scale"])
    loss = q_scale if q_scale > 50 else max(1.0, q_scale / 3)
    return loss * specified(arguments, call(kernel, replaced))


def calls(calls: Calls) -> None:
    """Besides the usual, plan rows that differ in their later blocks alone."""
    if not calls.subject.case.is_large:
        other_blocks(calls)
    usual_calls(calls)


def other_blocks(calls: Calls) -> None:
    """Plan for rows that have each other's second blocks, and for the rows as they were."""
    q, kv, batch, *further = calls.make(calls.variants - 1, 40)
    table = batch.block_table.clone()
    rows = batch.kv_length >= 2 * kv.shape[2]
    table[rows, 1] = batch.block_table[rows, 1].roll(1)
    moved = dataclasses.replace(batch, block_table=table)
    for number, each in enumerate((batch, moved, batch)):
        context = "with each other's second blocks" if number == 1 else "with blocks of their own"
        calls.call(context, (q, kv, each, *further))


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
        case("large_scores", MIXED, q_scale=12.0),
        case("largest_scores", DECODE, q_scale=100.0),
        case("many_keys_large_scores", ((1, 100), (1, 70)), q_scale=8.0, is_large=True),
        case("bad_row", ((1, 5), (1, 9), (1, 7), (1, 12)), bad_row=1),
        case("bad_prompt", ((5, 5), (9, 9), (4, 8)), bad_row=1),
        case("two_layers", MIXED, layers=2),
        case("decode_two_layers", DECODE, layers=2),
        case(
            "usual_heads",
            ((1, 37), (1, 5)),
            heads=8,
            kv_heads=2,
            head_dim=128,
            block_size=32,
            is_large=True,
        ),
        case("wider_heads", ((1, 9), (1, 17)), heads=2, kv_heads=1, head_dim=256, is_large=True),
        case("many_heads", DECODE, heads=72, kv_heads=1, head_dim=8, is_large=True),
        case("many_kv_heads", DECODE, heads=66, kv_heads=33, head_dim=8, is_large=True),
        case(
            "large_block",
            ((1, 130), (1, 3)),
            heads=2,
            kv_heads=1,
            head_dim=8,
            block_size=128,
            is_large=True,
        ),
        case("many_rows", tuple((1, 1 + row % 7) for row in range(260)), **SMALL, is_large=True),
        case("longer_prompts", ((140, 140), (7, 300), (70, 70)), **SMALL, is_large=True),
        case("longest_decode", ((1, 33_001), (1, 4099)), **SMALL, is_large=True),
        case(
            "calls",
            DECODE,
            layers=2,
            further=(
                {"rows": ((1, 3),)},
                {"rows": tuple((1, 4 + row % 5) for row in range(17))},
                {"rows": ((1, 6), (1, 2), (1, 9), (1, 20), (1, 7))},
            ),
        ),
        case(
            "calls_with_prompts",
            MIXED,
            further=(
                {"rows": ((1, 3),)},
                {"rows": ((20, 20), (1, 1))},
                {"rows": ((1, 6), (5, 30), (1, 9), (0, 3), (2, 7))},
            ),
        ),
        case(
            "calls_of_any_size",
            ((1, 5),) * 130,
            **SMALL,
            further=tuple(
                {"rows": tuple((1, 1 + row % 7) for row in range(count))} for count in MANY[1:15]
            ),
            is_large=True,
        ),
        case(
            "calls_of_any_prompt",
            ((300, 300),),
            **SMALL,
            further=tuple({"rows": ((count, count + count % 3),)} for count in MANY[1:16]),
            is_large=True,
        ),
        case(
            "calls_of_a_long_prompt",
            ((2053, 2053),),
            heads=1,
            kv_heads=1,
            head_dim=16,
            block_size=16,
            further=({"rows": ((3, 70),)},),
            is_large=True,
        ),
        case(
            "many_times",
            ((1, 3), (1, 2)),
            **SMALL,
            further=({"rows": ((1, 4),)},) * MANY_TIMES,
            is_large=True,
            keeps_outputs=True,
        ),
        case("sinks", MIXED, sinks=True, has_reference=False),
    ),
    ("q", "kv", "batch", "q of the next layer", "kv of the next layer"),
    call,
    calls=calls,
    begin=plan,
    complete=run,
    specified=specified,
    magnitude=magnitude,
    is_contiguous=True,
    make=make,
)
