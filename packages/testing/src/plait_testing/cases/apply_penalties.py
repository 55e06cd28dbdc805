"""Cases of ``apply_penalties``. Logits are float32 whatever the model is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from plait_kernels.ops import load_op
from plait_testing.case import Case, OpCases
from plait_testing.cases.rms_norm import MANY
from plait_testing.usual_calls import of_any_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


def case(
    name: str,
    rows: int,
    vocab: int = 31,
    max_length: int = 40,
    plain: float = 0.3,
    *,
    excluded: int = 0,
    further: tuple[Mapping[str, Any], ...] = (),
    is_large: bool = False,
) -> Case:
    """Make a case; ``plain`` is the probability that a penalty of a row is off."""
    inputs = {"rows": rows, "vocab": vocab, "max_length": max_length, "plain": plain}
    inputs["excluded"] = excluded
    most = max(260 if is_large else 64, rows)
    return Case(name, {"vocab": vocab}, inputs, further=further, max_tokens=most, is_large=is_large)


def make(seed: int, *, excluded: int, **arguments: Any) -> Any:
    """Make the arguments; the logits of the first ``excluded`` ids are -∞."""
    made: Any = load_op("apply_penalties").inputs(seed, **arguments)
    made[0][:, :excluded] = -math.inf
    return made


def writable(arguments: Any) -> list[torch.Tensor]:
    """Return the rows that have a penalty."""
    logits, batch = arguments
    has_penalty = (batch.presence != 0) | (batch.frequency != 0) | (batch.repetition != 1)
    return [logits[row] for row, found in enumerate(has_penalty.tolist()) if found]


def magnitude(case: Case, arguments: Any, exact: torch.Tensor) -> torch.Tensor:
    """Return a bound of the logit before, of what is taken from it, and of what is left."""
    logits, batch = arguments
    presence = batch.presence.abs()[:, None]
    repeated: torch.Tensor = logits.abs() * batch.repetition.clamp(min=1)[:, None]
    found: torch.Tensor = exact.abs() + 2 * (repeated + presence)
    return found


CASES = OpCases(
    "apply_penalties",
    (
        case("no_row", 0),
        case("one_row", 1, plain=0),
        case("mixed", 9),
        case("every_row", 7, plain=0),
        case("no_penalty", 5, plain=1),
        case("no_history", 5, max_length=0),
        case("short_histories", 33, vocab=203, max_length=3),
        case("more_tokens_than_ids", 5, vocab=7, max_length=90),
        case("wide", 3, vocab=5003, max_length=300),
        case("two_ids", 5, vocab=2, max_length=70, plain=0),
        case("excluded_ids", 5, vocab=17, plain=0, excluded=6),
        case("many_repeats", 8, vocab=2, max_length=2000, plain=0, is_large=True),
        case("many_rows", 130, vocab=9, max_length=5, is_large=True),
        case("long_history", 6, vocab=203, max_length=4100, plain=0, is_large=True),
        case("wider_65540", 2, vocab=65_540, max_length=40, plain=0, is_large=True),
        case("wider_262150", 2, vocab=262_150, max_length=40, plain=0, is_large=True),
        case("calls", 5, further=({"rows": 1, "plain": 0}, {"rows": 17}, {"max_length": 60})),
        case(
            "calls_of_any_size",
            130,
            vocab=9,
            max_length=9,
            further=of_any_size(rows=MANY[:14]),
            is_large=True,
        ),
    ),
    ("logits", "batch"),
    lambda kernel, arguments: kernel(*arguments),
    targets=lambda arguments: {"logits": arguments[0]},
    writable=writable,
    magnitude=magnitude,
    make=make,
    dtypes=("float32",),
)
