"""Cases of ``silu_and_mul``."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from plait_kernels.ops import load_op
from plait_kernels.ops.contract import FLOAT32_SUMS
from plait_testing.case import Case, OpCases
from plait_testing.cases import rms_norm
from plait_testing.usual_calls import MANY_TIMES, of_any_size

if TYPE_CHECKING:
    import torch


case = functools.partial(rms_norm.case, width="features")


def make(seed: int, *, scale: float = 1.0, bad_row: int = -1, **shape: Any) -> Any:
    """Make the argument: activations times ``scale``, and a row of NaN if one is named."""
    made: Any = load_op("silu_and_mul").inputs(seed, **shape)
    (x,) = made
    x.mul_(scale)
    if bad_row >= 0:
        x[bad_row] = float("nan")
    return (x,)


def magnitude(case: Case, arguments: Any, exact: torch.Tensor) -> torch.Tensor:
    """Return the result's, and what silu(gate) may lose where it has few digits, times up."""
    up: torch.Tensor = arguments[0].chunk(2, dim=-1)[1]
    smallest_of_float16 = 2.0**-24
    return exact.abs() + up.abs() * smallest_of_float16 / FLOAT32_SUMS


CASES = OpCases(
    "silu_and_mul",
    (
        case("no_token", 0, 40),
        case("one_token", 1, 40),
        case("ragged", 7, 40),
        case("more_tokens", 33, 100),
        case("one_feature", 5, 1),
        case("odd_features", 9, 37),
        case("even_features", 4, 1024, is_large=True),
        case("wide", 3, 1544),
        case("strided", 7, 40, 16),
        case("strided_odd", 11, 37, 3),
        case("large_numbers", 5, 40, scale=50.0),
        case("bad_row", 6, 40, bad_row=2),
        case("many_tokens", 1030, 24, is_large=True),
        case("wider_4096", 2, 4096, is_large=True),
        case("wider_4100", 2, 4100, is_large=True),
        case("wider_14344", 2, 14344, is_large=True),
        case("wider_28680", 2, 28680, is_large=True),
        case(
            "calls",
            7,
            40,
            further=({"tokens": 1}, {"tokens": 33}, {"tokens": 7, "padding": 8, "scale": 3.0}),
        ),
        case(
            "many_times",
            3,
            24,
            further=of_any_size(tokens=(2,) * MANY_TIMES),
            is_large=True,
            keeps_outputs=True,
        ),
        case(
            "calls_of_any_size", 4099, 24, further=of_any_size(tokens=rms_norm.MANY), is_large=True
        ),
    ),
    ("x",),
    lambda kernel, arguments: kernel(*arguments),
    magnitude=magnitude,
    make=make,
)
