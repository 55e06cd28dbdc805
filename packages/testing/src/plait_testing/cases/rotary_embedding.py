"""Cases of ``rotary_embedding``."""

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
    *,
    heads: int = 6,
    kv_heads: int = 2,
    head_dim: int = 16,
    rotary_dim: int | None = None,
    packed: bool = True,
    max_position: int = 50,
    further: tuple[Mapping[str, Any], ...] = (),
    is_large: bool = False,
) -> Case:
    """Make a case; ``packed`` makes q and k columns of one matrix."""
    rotated = rotary_dim or head_dim
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "rotary_dim": rotated}
    inputs = {**shape, "tokens": tokens, "packed": packed, "max_position": max_position}
    params = {"head_dim": head_dim, "rotary_dim": rotated}
    most = max(4100 if is_large else 64, tokens)
    return Case(name, params, inputs, further=further, max_tokens=most, is_large=is_large)


def writable(arguments: Any) -> list[torch.Tensor]:
    """Return the part of every head that is rotated."""
    _, q, k, cos_sin = arguments
    return [heads[..., : cos_sin.shape[1]] for heads in (q, k)]


def magnitude(case: Case, arguments: Any, exact: torch.Tensor) -> torch.Tensor:
    """Return the largest number of each head: the two that are turned by an angle are not both."""
    found = exact.abs()
    for heads in arguments[1:3]:
        # Where both have one shape, both count: the sum is a bound all the same.
        if heads.shape == exact.shape:
            found = found + heads.abs().amax(-1, keepdim=True)
    return found


CASES = OpCases(
    "rotary_embedding",
    (
        case("no_token", 0),
        case("one_token", 1),
        case("ragged", 7),
        case("more_tokens", 33, heads=9, kv_heads=3, head_dim=24),
        case("not_packed", 7, packed=False),
        case("one_head", 5, heads=1, kv_heads=1, head_dim=6),
        case("wide_heads", 3, heads=4, kv_heads=1, head_dim=80),
        case("part_of_a_head", 7, head_dim=20, rotary_dim=12),
        case("odd_head_dim", 7, head_dim=17, rotary_dim=10),
        case("usual_heads", 3, heads=8, kv_heads=2, head_dim=128, is_large=True),
        case("many_heads", 2, heads=130, kv_heads=18, head_dim=8, is_large=True),
        case("wider_heads", 2, heads=3, kv_heads=1, head_dim=258, is_large=True),
        case("many_tokens", 520, heads=2, kv_heads=1, head_dim=6, is_large=True),
        case("late_positions", 9, head_dim=6, max_position=131_075),
        case("calls", 7, further=({"tokens": 1}, {"tokens": 33, "max_position": 90}, {"heads": 4})),
        case(
            "calls_of_any_size",
            4099,
            heads=2,
            kv_heads=1,
            head_dim=6,
            further=of_any_size(tokens=MANY[:-1]),
            is_large=True,
        ),
    ),
    ("positions", "q", "k", "cos_sin"),
    lambda kernel, arguments: kernel(*arguments),
    targets=lambda arguments: {"q": arguments[1], "k": arguments[2]},
    writable=writable,
    magnitude=magnitude,
)
