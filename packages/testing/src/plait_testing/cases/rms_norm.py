"""Cases of ``rms_norm``."""

from __future__ import annotations

from plait_testing.case import Case, OpCases


def case(name: str, tokens: int, hidden: int, padding: int = 0) -> Case:
    """Make a case of one shape; ``padding`` > 0 strides the rows."""
    inputs = {"tokens": tokens, "hidden": hidden, "padding": padding}
    return Case(name, {"hidden": hidden}, inputs)


SHAPES = (
    case("no_token", 0, 48),
    case("one_token", 1, 48),
    case("ragged", 7, 48),
    case("more_tokens", 33, 100),
    case("one_column", 5, 1),
    case("odd_columns", 9, 45),
    case("wide", 3, 2056),
    case("strided", 7, 48, 8),
    case("strided_odd", 11, 45, 3),
)
"""Shapes of activations [tokens, hidden]."""

CASES = OpCases(
    "rms_norm",
    SHAPES,
    ("x", "weight", "eps"),
    lambda kernel, arguments: kernel(*arguments),
)
