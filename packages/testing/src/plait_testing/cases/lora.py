"""Cases of ``lora``. Sites, ranks and mixes are ragged wherever a case does not say otherwise."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from plait_kernels.ops import load_op
from plait_kernels.ops.contract import Accuracy
from plait_testing.case import Case, OpCases
from plait_testing.cases.lora_calls import lora_calls
from plait_testing.cases.rms_norm import MANY
from plait_testing.usual_calls import of_any_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

TILE_LISTS = ("tile_offset", "tile_rank", "tile_scale")
DENSE_LISTS = ("dense_kind", "dense_offset", "dense_index", "dense_weight")

PLAIN: dict[str, Any] = {"dense": False, "max_adapters": 1}
SMALL: dict[str, Any] = {
    **PLAIN,
    "targeted": 1.0,
    "in_features": 24,
    "out_features": (17,),
    "group": "o",
}
ADD, SCALE, ROW = 0, 1, 2
"""The kinds of dense entry; their constants are where torch is imported."""


def case(
    name: str,
    *,
    group: str = "qkv",
    further: tuple[Mapping[str, Any], ...] = (),
    is_large: bool = False,
    **inputs: Any,
) -> Case:
    """Make a case of one site group; ``inputs`` are arguments of ``make``."""
    return Case(
        name,
        {"group": group},
        {"group": group, **inputs},
        further,
        max_tokens=max(4100 if is_large else 520, len(inputs.get("token_slot") or ())),
        has_nan="bad_token" in inputs,
        is_large=is_large,
    )


def gate_and_up(name: str, *, out_features: tuple[int, int] = (44, 44), **inputs: Any) -> Case:
    """Make a case of the call that goes on with the activation.

    Gate, up and what is made of them may all be rounded.
    """
    made = case(name, group="gate_up", out_features=out_features, packed=True, **inputs)
    accuracy = Accuracy(roundings=4, inner=1)
    return dataclasses.replace(made, optional_call="expand_silu_and_mul", accuracy=accuracy)


def make(
    seed: int,
    *,
    dtype: str,
    arena: str | None = None,
    scale: float = 1.0,
    bad_token: int = -1,
    **arguments: Any,
) -> Any:
    """Make the arguments; ``arena`` is the dtype of the tiles if it is another one.

    Activations are multiplied by ``scale``; those of ``bad_token`` are NaN.
    """
    import torch

    stored = None if arena is None else getattr(torch, arena)
    generate: Any = load_op("lora").inputs
    made = generate(seed, dtype=getattr(torch, dtype), arena_dtype=stored, **arguments)
    if scale != 1:
        made.x.mul_(scale)
        made.y.mul_(scale)
    if bad_token >= 0:
        made.x[bad_token] = torch.nan
    return made


def call(kernel: Any, arguments: Any) -> torch.Tensor | None:
    """Shrink, then expand; of gate and up with ``silu_and_mul``."""
    return expand(kernel, shrink(kernel, arguments))


def shrink(kernel: Any, arguments: Any) -> Any:
    """Do the first half of a call."""
    return arguments, kernel.shrink(arguments.x, arguments.sites, arguments.batch)


def expand(kernel: Any, begun: Any) -> torch.Tensor | None:
    """Do the second half of a call."""
    arguments, h = begun
    sites, batch, y = arguments.sites, arguments.batch, arguments.y
    if not is_gate_and_up(arguments):
        kernel.expand(h, sites, batch, y)
        return None
    output: torch.Tensor = kernel.expand_silu_and_mul(h, sites, batch, y)
    return output


def is_gate_and_up(arguments: Any) -> bool:
    """Tell whether all that y has are a gate and as many columns of up."""
    gate_and_up = [site.out_features for site in arguments.sites if site.group == "gate_up"]
    return len(gate_and_up) == 2 and sum(gate_and_up) == arguments.y.shape[1]


def magnitude(case: Case, arguments: Any, exact: torch.Tensor) -> torch.Tensor:
    """Return the size of what is added up, with a margin for terms that cancel each other."""
    y: torch.Tensor = arguments.y
    if not is_gate_and_up(arguments):
        return y.abs() + exact.abs() + 16 * (exact - y).abs().nan_to_num(0).amax(-1, keepdim=True)
    before = y.clone()
    kernel: Any = load_op("lora").reference(case.config("lora", "float32", "prefill"))
    h = kernel.shrink(arguments.x, arguments.sites, arguments.batch)
    kernel.expand(h, arguments.sites, arguments.batch, y)
    gate, up = y.chunk(2, dim=-1)
    # What gate and up are the sums of may be larger than they are.
    size = before.abs() + (y - before).abs().nan_to_num(0).amax(-1, keepdim=True)
    of_gate, of_up = size.chunk(2, dim=-1)
    silu = gate * gate.sigmoid()
    # By how much of itself silu(gate) changes if the gate is rounded.
    rounded: torch.Tensor = exact.abs() * (1 + gate.abs())
    return rounded + 2**-4 * (silu.abs() * of_up + up.abs() * of_gate)


def targets(arguments: Any) -> dict[str, torch.Tensor]:
    """Return y, unless what it holds afterwards is unspecified."""
    return {} if is_gate_and_up(arguments) else {"y": arguments.y}


def writable(arguments: Any) -> list[torch.Tensor]:
    """Return the columns of each token at the sites where its mix does something."""
    table, y = arguments.batch.table, arguments.y
    if is_gate_and_up(arguments):
        return [y]
    return [
        y[token, site.out_offset : site.out_offset + site.out_features]
        for token, slot in enumerate(arguments.batch.token_slot.tolist())
        for site in arguments.sites
        if slot >= 0
        and int(table.tile_count[slot, site.index] + table.dense_count[slot, site.index])
    ]


def stage(first: Any, second: Any) -> Any:
    """Lengthen the arena and the lists of ``first`` as an engine does that sizes them once."""

    def longer(name: str) -> torch.Tensor:
        mine = getattr(first.batch.table, name)
        missing = getattr(second.batch.table, name).shape[0] - mine.shape[0]
        # What lies past the ends is unspecified.
        return mine if missing <= 0 else _pad(mine, missing)

    names = ("arena", *TILE_LISTS, *DENSE_LISTS)
    tables = first.batch.table, second.batch.table
    table = dataclasses.replace(
        tables[0],
        **{name: longer(name) for name in names},
        max_tiles=max(table.max_tiles for table in tables),
        max_dense=max(table.max_dense for table in tables),
    )
    return dataclasses.replace(first, batch=dataclasses.replace(first.batch, table=table))


def _pad(values: torch.Tensor, count: int) -> torch.Tensor:
    padded = values.new_zeros(values.shape[0] + count)
    padded[: values.shape[0]] = values
    return padded


WIDE: dict[str, Any] = {
    "targeted": 1.0,
    "token_slot": (1, 0, -1, 1),
    "slots": 2,
    "ranks": (3, 9),
    "out_features": (17,),
    "group": "down",
    **PLAIN,
}
TALL: dict[str, Any] = {
    "targeted": 1.0,
    "token_slot": (1, 0, -1, 1),
    "slots": 2,
    "ranks": (3, 9),
    "in_features": 24,
    "group": "o",
    **PLAIN,
}

CASES = OpCases(
    "lora",
    (
        case("no_token", tokens=0),
        case("one_token", token_slot=(1,)),
        case("one_base_token", token_slot=(-1,)),
        case("base_only", token_slot=(-1,) * 5),
        case("base_among_others", token_slot=(-1, 2, -1, -1, 0, 2, -1)),
        case("one_adapter", token_slot=(0,) * 7, slots=1, **PLAIN),
        case("one_of_many", token_slot=(4,) * 6, slots=7, **PLAIN),
        case(
            "adapters_128", token_slot=(*range(128), 5, -1, 5), slots=128, ranks=(1, 3, 9), **PLAIN
        ),
        case("rank_1", ranks=(1,), **PLAIN),
        case(
            "rank_512",
            tokens=5,
            slots=2,
            ranks=(512,),
            targeted=1.0,
            out_features=(40, 24),
            **PLAIN,
        ),
        case("ragged_ranks", tokens=11, ranks=(1, 7, 8, 9, 64, 100), **PLAIN),
        case("one_rank", tokens=12, slots=6, ranks=(16,), **PLAIN),
        case("mixes", tokens=13, dense=False, max_adapters=4),
        case("more_tokens", tokens=67, dense=False, max_adapters=2),
        case("dense_rows", tokens=25, slots=12, max_adapters=1),
        case("dense_rows_and_mixes", tokens=17, slots=6, max_adapters=3),
        case("one_site", group="o", out_features=(36,), tokens=9),
        case("two_sites", group="gate_up", out_features=(44, 44), tokens=9),
        gate_and_up("gate_and_up", tokens=19),
        gate_and_up("gate_and_up_mixes", tokens=35, dense=False, max_adapters=4),
        gate_and_up("gate_and_up_base_only", token_slot=(-1,) * 5),
        gate_and_up("gate_and_up_no_token", tokens=0),
        gate_and_up("gate_and_up_strided", tokens=21, padding=8, **PLAIN),
        case("odd_sizes", group="down", in_features=37, out_features=(29,), tokens=9),
        case("wide", group="down", in_features=328, out_features=(136,), tokens=6),
        case("strided", tokens=9, padding=8),
        case("tiles_of_1_row", tokens=9, tile_rows=1),
        case("tiles_of_16_rows", tokens=9, tile_rows=16),
        case("float32_arena", tokens=9, arena="float32"),
        case("bfloat16_arena", tokens=9, arena="bfloat16"),
        case("embed", group="embed", out_features=(36,), tokens=11),
        case("embed_no_token", group="embed", out_features=(36,), tokens=0),
        case("embed_base_only", group="embed", out_features=(36,), token_slot=(-1, -1)),
        case("embed_rank_1", group="embed", out_features=(29,), tokens=7, ranks=(1,), **PLAIN),
        case("head", group="head", out_features=(150,), tokens=7),
        case("head_one_row", group="head", out_features=(150,), token_slot=(2,)),
        case("head_base_only", group="head", out_features=(150,), token_slot=(-1,)),
        case("shared_tiles", tokens=9, shared=True, **PLAIN),
        case("shared_tiles_and_mixes", tokens=11, slots=6, shared=True, dense=False),
        case("one_many_times", token_slot=(2, 0, 2, -1, 2, 1, 0, 2, 2, 1), ranks=(9,), **PLAIN),
        case("dense_add", group="o", out_features=(36,), tokens=7, kinds=(ADD, ADD)),
        case("dense_scale", group="o", out_features=(36,), tokens=7, kinds=(SCALE, SCALE)),
        case("dense_rows_only", group="o", out_features=(36,), tokens=7, kinds=(ROW,) * 5),
        case("dense_scale_and_add", group="o", out_features=(36,), tokens=7, kinds=(ADD, SCALE)),
        case("embed_rows", group="embed", out_features=(36,), tokens=17, kinds=(ROW,) * 9),
        case(
            "embed_many_ids",
            group="embed",
            in_features=66_000,
            slots=2,
            tokens=9,
            ranks=(1, 3),
            out_features=(12,),
            **PLAIN,
            is_large=True,
        ),
        case("large_numbers", tokens=5, scale=100.0),
        case("bad_token", token_slot=(0, 1, 2, 1, -1, 2, 3, 1), bad_token=2, **PLAIN),
        case(
            "usual_sizes",
            tokens=5,
            in_features=512,
            out_features=(256, 128),
            ranks=(16,),
            **PLAIN,
            is_large=True,
        ),
        case("many_tokens", tokens=520, ranks=(3,), slots=3, **SMALL, is_large=True),
        case(
            "many_slots",
            token_slot=tuple(range(270)),
            slots=270,
            ranks=(1,),
            **SMALL,
            is_large=True,
        ),
        case(
            "many_sites",
            tokens=4,
            slots=2,
            ranks=(2,),
            out_features=(8,) * 19,
            **PLAIN,
            is_large=True,
        ),
        case("rank_1030", token_slot=(0, -1, 0), slots=1, ranks=(1030,), **SMALL, is_large=True),
        case("wide_4104", **WIDE, in_features=4104, is_large=True),
        case("wide_8200", **WIDE, in_features=8200, is_large=True),
        case("wide_16392", **WIDE, in_features=16_392, is_large=True),
        case("tall_4104", **TALL, out_features=(4104, 24), is_large=True),
        case("tall_16392", **TALL, out_features=(16_392,), is_large=True),
        case("head_131080", **{**TALL, "group": "head"}, out_features=(131_080,), is_large=True),
        case("more_and_more_tokens", tokens=1030, ranks=(1,), slots=2, is_large=True, **SMALL),
        case("late_sites", tokens=7, first_site=70),
        case("later_sites", tokens=7, first_site=300),
        case(
            "many_dense_entries",
            token_slot=(0, -1, 1),
            slots=2,
            group="o",
            in_features=24,
            out_features=(20,),
            kinds=(ADD, ROW) * 35 + (SCALE,),
            is_large=True,
        ),
        case(
            "calls_of_many_tokens",
            token_slot=(0, 1, *(-1,) * 4) * 1370,
            slots=2,
            ranks=(1,),
            further=({"token_slot": (1,) * 1030}, {"token_slot": (0,) * 3}),
            is_large=True,
            **SMALL,
        ),
        case(
            "calls_of_many_layers",
            group="o",
            layers=20,
            in_features=24,
            out_features=(17,),
            tokens=5,
            slots=2,
            ranks=(1, 9),
            further=({"tokens": 3},),
            is_large=True,
            **PLAIN,
        ),
        case(
            "calls",
            group="o",
            layers=3,
            in_features=24,
            out_features=(20,),
            tokens=6,
            slots=3,
            ranks=(1, 3, 9),
            max_adapters=2,
            further=(
                {"ranks": (17, 26), "tokens": 6},
                {"tokens": 1, "slots": 2},
                {"tokens": 19, "slots": 5},
            ),
        ),
        gate_and_up(
            "gate_and_up_calls",
            layers=3,
            in_features=24,
            out_features=(12, 12),
            tokens=6,
            slots=3,
            ranks=(1, 3, 9),
            **PLAIN,
            further=(
                {"ranks": (17, 26), "tokens": 6},
                {"tokens": 1, "slots": 2},
                {"tokens": 19, "slots": 5},
            ),
        ),
        case(
            "calls_of_any_size",
            tokens=70,
            slots=3,
            ranks=(2,),
            further=of_any_size(tokens=MANY[1:16]),
            is_large=True,
            **SMALL,
        ),
    ),
    (),
    call,
    calls=lora_calls,
    begin=shrink,
    complete=expand,
    targets=targets,
    writable=writable,
    magnitude=magnitude,
    stage=stage,
    make=make,
)
