"""Cases of ``sample``. Logits are float32 whatever the model is."""

from __future__ import annotations

from typing import Any

from plait_kernels.ops import load_op
from plait_testing.case import Case, OpCases


def case(
    name: str,
    rows: int,
    vocab: int = 61,
    *,
    greedy: float = 0.3,
    ties: bool = False,
    excluded: int = 0,
) -> Case:
    """Make a case; ``greedy`` is the probability of temperature 0."""
    inputs = {"rows": rows, "vocab": vocab, "greedy": greedy, "ties": ties, "excluded": excluded}
    return Case(name, {"vocab": vocab}, inputs)


def make(seed: int, *, excluded: int, **arguments: Any) -> Any:
    """Make the arguments; the logits of ``excluded`` tokens of each row are -∞."""
    made: Any = load_op("sample").inputs(seed, **arguments)
    logits, batch = made
    logits[:, 7 : 7 + excluded] = -float("inf")
    return logits, batch


CASES = OpCases(
    "sample",
    (
        case("no_row", 0),
        case("one_row", 1, greedy=0),
        case("one_greedy_row", 1, greedy=1),
        case("mixed", 17),
        case("greedy", 9, greedy=1),
        case("greedy_with_ties", 9, greedy=1, ties=True),
        case("drawn", 33, greedy=0),
        case("drawn_with_ties", 17, greedy=0, ties=True),
        case("excluded_tokens", 17, excluded=30),
        case("two_tokens", 9, 2),
        case("wide", 5, 5003, greedy=0),
    ),
    ("logits", "batch"),
    lambda kernel, arguments: kernel(*arguments),
    make=make,
    dtypes=("float32",),
)
