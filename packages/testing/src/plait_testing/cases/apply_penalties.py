"""Cases of ``apply_penalties``. Logits are float32 whatever the model is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plait_testing.case import Case, OpCases

if TYPE_CHECKING:
    import torch


def case(name: str, rows: int, vocab: int = 31, max_length: int = 40, plain: float = 0.3) -> Case:
    """Make a case; ``plain`` is the probability that a penalty of a row is off."""
    inputs = {"rows": rows, "vocab": vocab, "max_length": max_length, "plain": plain}
    return Case(name, {"vocab": vocab}, inputs)


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
    return exact.abs() + 2 * (repeated + presence)


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
    ),
    ("logits", "batch"),
    lambda kernel, arguments: kernel(*arguments),
    targets=lambda arguments: {"logits": arguments[0]},
    writable=writable,
    magnitude=magnitude,
    dtypes=("float32",),
)
