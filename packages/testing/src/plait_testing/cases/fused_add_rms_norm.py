"""Cases of ``fused_add_rms_norm``."""

from __future__ import annotations

import functools

from plait_testing.case import OpCases
from plait_testing.cases.rms_norm import SHAPES, make

CASES = OpCases(
    "fused_add_rms_norm",
    SHAPES,
    ("x", "residual", "weight", "eps"),
    lambda kernel, arguments: kernel(*arguments),
    targets=lambda arguments: {"residual": arguments[1]},
    writable=lambda arguments: [arguments[1]],
    make=functools.partial(make, "fused_add_rms_norm"),
)
