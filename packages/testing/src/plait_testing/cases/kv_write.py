"""Cases of ``kv_write``. The cache is one layer of several: other layers lie between its blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait_testing.case import Case, OpCases
from plait_testing.cases.rms_norm import MANY
from plait_testing.usual_calls import of_any_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def case(
    name: str,
    tokens: int,
    skipped: int,
    *,
    kv_heads: int = 2,
    head_dim: int = 16,
    block_size: int = 4,
    num_blocks: int = 9,
    layers: int = 3,
    further: tuple[Mapping[str, Any], ...] = (),
    is_large: bool = False,
) -> Case:
    """Make a case in which ``skipped`` of the tokens have slot -1."""
    params = {"kv_heads": kv_heads, "head_dim": head_dim, "block_size": block_size}
    inputs = {**params, "tokens": tokens, "skipped": skipped, "num_blocks": num_blocks}
    inputs["layers"] = layers
    most = max(4100 if is_large else 64, tokens)
    return Case(name, params, inputs, further=further, max_tokens=most, is_large=is_large)


def writable(arguments: Any) -> list[torch.Tensor]:
    """Return the places in the cache that the slots name."""
    _, _, kv, slot_mapping = arguments
    block_size = kv.shape[2]
    return [
        kv[slot // block_size, :, slot % block_size] for slot in slot_mapping.tolist() if slot >= 0
    ]


CASES = OpCases(
    "kv_write",
    (
        case("no_token", 0, 0),
        case("one_token", 1, 0),
        case("one_token_skipped", 1, 1),
        case("ragged", 7, 0),
        case("some_skipped", 8, 3),
        case("all_skipped", 5, 5),
        case("every_slot", 36, 0),
        case("wide_heads", 7, 2, kv_heads=3, head_dim=80, block_size=16, num_blocks=3),
        case("one_head", 5, 1, kv_heads=1, head_dim=24, block_size=1),
        case("odd_head_dim", 7, 2, head_dim=17),
        case("odd_block", 7, 2, kv_heads=3, block_size=5, num_blocks=4),
        case(
            "usual_heads",
            5,
            1,
            kv_heads=8,
            head_dim=128,
            block_size=16,
            num_blocks=2,
            is_large=True,
        ),
        case(
            "wider_heads", 3, 1, kv_heads=2, head_dim=258, block_size=2, num_blocks=3, is_large=True
        ),
        case(
            "large_block", 9, 2, kv_heads=1, head_dim=6, block_size=256, num_blocks=2, is_large=True
        ),
        case(
            "many_tokens",
            520,
            9,
            kv_heads=1,
            head_dim=6,
            block_size=16,
            num_blocks=300,
            is_large=True,
        ),
        case(
            "calls",
            7,
            0,
            further=(
                {"tokens": 1},
                {"tokens": 30, "skipped": 3},
                {"tokens": 5, "skipped": 5},
                {"tokens": 4, "num_blocks": 5},
            ),
        ),
        case(
            "calls_of_many_slots",
            4099,
            5,
            kv_heads=1,
            head_dim=2,
            block_size=16,
            num_blocks=17_000,
            layers=2,
            further=({"num_blocks": 4100},),
            is_large=True,
        ),
        case(
            "calls_of_any_size",
            2049,
            5,
            kv_heads=1,
            head_dim=6,
            block_size=16,
            num_blocks=300,
            further=of_any_size(tokens=MANY[3:]),
            is_large=True,
        ),
    ),
    ("k", "v", "kv", "slot_mapping"),
    lambda kernel, arguments: kernel(*arguments),
    targets=lambda arguments: {"kv": arguments[2]},
    writable=writable,
)
