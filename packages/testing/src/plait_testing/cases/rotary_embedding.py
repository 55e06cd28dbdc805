"""Cases of ``rotary_embedding``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait_testing.case import Case, OpCases

if TYPE_CHECKING:
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
) -> Case:
    """Make a case; ``packed`` makes q and k columns of one matrix."""
    rotated = rotary_dim or head_dim
    shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "rotary_dim": rotated}
    inputs = {**shape, "tokens": tokens, "packed": packed}
    return Case(name, {"head_dim": head_dim, "rotary_dim": rotated}, inputs)


def writable(arguments: Any) -> list[torch.Tensor]:
    """Return the part of every head that is rotated."""
    _, q, k, cos_sin = arguments
    return [heads[..., : cos_sin.shape[1]] for heads in (q, k)]


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
    ),
    ("positions", "q", "k", "cos_sin"),
    lambda kernel, arguments: kernel(*arguments),
    targets=lambda arguments: {"q": arguments[1], "k": arguments[2]},
    writable=writable,
)
