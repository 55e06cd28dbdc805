"""Cases of ``linear``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait_testing.case import Case, OpCases

if TYPE_CHECKING:
    from plait_kernels.config import Scalar


def case(
    name: str,
    tokens: int,
    in_features: int = 40,
    out_features: int = 24,
    *,
    bias: bool = True,
    padding: int = 0,
) -> Case:
    """Make a case with a dense weight; ``padding`` > 0 strides the rows of x."""
    shape = {"in_features": in_features, "out_features": out_features, "bias": bias}
    inputs = {**shape, "tokens": tokens, "padding": padding}
    return Case(name, {**shape, "format": "dense"}, inputs)


def prepare(kernel: Any, arguments: Any) -> Any:
    """Put the prepared weight in the place of the dense one."""
    x, weight = arguments
    return x, kernel.prepare(weight)


UNKNOWN: dict[str, Scalar] = {
    "in_features": 40,
    "out_features": 24,
    "bias": True,
    "format": "no-such-format",
}

CASES = OpCases(
    "linear",
    (
        case("no_token", 0),
        case("one_token", 1),
        case("ragged", 7),
        case("more_tokens", 33),
        case("without_bias", 7, bias=False),
        case("one_by_one", 5, 1, 1),
        case("odd_features", 9, 37, 29),
        case("wide", 3, 328, 136),
        case("strided", 7, padding=8),
        case("strided_odd", 11, 37, 29, padding=3),
        Case("unknown_format", UNKNOWN, has_reference=False, is_nonsense=True),
    ),
    ("x", "weight"),
    lambda kernel, arguments: kernel(*arguments),
    prepare=prepare,
    # Weights are prepared once; nothing changes them between steps.
    fixed=frozenset({"weight.weight", "weight.bias"}),
    is_contiguous=True,
)
