"""Cases of ``rms_norm``."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from plait_kernels.ops import load_op
from plait_testing.case import Case, OpCases
from plait_testing.usual_calls import MANY_TIMES, of_any_size

if TYPE_CHECKING:
    from collections.abc import Mapping

MANY = (1, 2, 3, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513, 1025)
"""Numbers of tokens at and past the sizes of blocks."""


def case(
    name: str,
    tokens: int,
    size: int,
    padding: int = 0,
    *,
    width: str = "hidden",
    further: tuple[Mapping[str, Any], ...] = (),
    is_large: bool = False,
    keeps_outputs: bool = False,
    **inputs: Any,
) -> Case:
    """Make a case of one shape; ``width`` names the size of a row, ``padding`` > 0 strides them."""
    shape = {"tokens": tokens, width: size, "padding": padding, **inputs}
    most = max(4100 if is_large else 64, tokens)
    return Case(
        name,
        {width: size},
        shape,
        further=further,
        max_tokens=most,
        is_large=is_large,
        keeps_outputs=keeps_outputs,
        has_nan="bad_row" in inputs,
    )


def make(
    op: str, seed: int, *, scale: float = 1.0, eps: float = 1e-5, bad_row: int = -1, **shape: Any
) -> Any:
    """Make the arguments: activations times ``scale``, and a row of NaN if one is named."""
    made: Any = load_op(op).inputs(seed, **shape)
    *activations, weight, _ = made
    if scale > 1 and shape["dtype"] != "float16":
        # Their squares fit float32, as those of a smaller scale do where float16 has no room.
        scale = scale**4
    for values in activations:
        values.mul_(scale)
    if bad_row >= 0:
        activations[0][bad_row] = float("nan")
    return *activations, weight, eps


SHAPES = (
    case("no_token", 0, 48),
    case("one_token", 1, 48),
    case("ragged", 7, 48),
    case("more_tokens", 33, 100),
    case("one_column", 5, 1),
    case("odd_columns", 9, 45),
    case("even_columns", 4, 1024, is_large=True),
    case("wide", 3, 2056),
    case("strided", 7, 48, 8),
    case("strided_odd", 11, 45, 3),
    case("small_numbers", 5, 48, scale=2e-3),
    case("zeros", 3, 48, scale=0.0),
    case("large_numbers", 5, 48, scale=3000.0),
    case("another_eps", 5, 48, eps=0.5),
    case("bad_row", 6, 48, bad_row=2),
    case("many_tokens", 1030, 24, is_large=True),
    case("wider_1025", 2, 1025, is_large=True),
    case("wider_4096", 3, 4096, is_large=True),
    case("wider_4100", 3, 4100, is_large=True),
    case("wider_8192", 3, 8192, is_large=True),
    case("wider_8200", 3, 8200, is_large=True),
    case("wider_16384", 3, 16384, is_large=True),
    case("wider_16392", 3, 16392, is_large=True),
    case(
        "calls",
        7,
        48,
        further=(
            {"tokens": 1},
            {"tokens": 33, "eps": 0.5},
            {"tokens": 7, "eps": 1e-2, "scale": 0.1, "padding": 8},
        ),
    ),
    case(
        "many_times",
        3,
        24,
        further=of_any_size(tokens=(2,) * MANY_TIMES),
        is_large=True,
        keeps_outputs=True,
    ),
    case("calls_of_any_size", 4099, 24, further=of_any_size(tokens=MANY), is_large=True),
)
"""Shapes of activations [tokens, hidden]."""

CASES = OpCases(
    "rms_norm",
    SHAPES,
    ("x", "weight", "eps"),
    lambda kernel, arguments: kernel(*arguments),
    make=functools.partial(make, "rms_norm"),
)
