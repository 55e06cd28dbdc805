"""Cases of ``silu_and_mul``."""

from __future__ import annotations

from plait_testing.case import Case, OpCases


def case(name: str, tokens: int, features: int, padding: int = 0) -> Case:
    """Make a case of one shape; ``padding`` > 0 strides the rows."""
    inputs = {"tokens": tokens, "features": features, "padding": padding}
    return Case(name, {"features": features}, inputs)


CASES = OpCases(
    "silu_and_mul",
    (
        case("no_token", 0, 40),
        case("one_token", 1, 40),
        case("ragged", 7, 40),
        case("more_tokens", 33, 100),
        case("one_feature", 5, 1),
        case("odd_features", 9, 37),
        case("wide", 3, 1544),
        case("strided", 7, 40, 16),
        case("strided_odd", 11, 37, 3),
    ),
    ("x",),
    lambda kernel, arguments: kernel(*arguments),
)
