"""Cases of ``sample``. Logits are float32 whatever the model is."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from plait_kernels.ops import load_op
from plait_kernels.ops.philox import uniform
from plait_testing.case import Case, OpCases
from plait_testing.cases import sample_rules
from plait_testing.cases.rms_norm import MANY
from plait_testing.usual_calls import MANY_TIMES, of_any_size, usual_calls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plait_testing.calls import Calls


def case(
    name: str,
    rows: int,
    vocab: int = 61,
    *,
    greedy: float = 0.3,
    ties: bool = False,
    excluded: int = 0,
    kind: str = "any",
    further: tuple[Mapping[str, Any], ...] = (),
    is_large: bool = False,
    keeps_outputs: bool = False,
) -> Case:
    """Make a case; ``greedy`` is the probability of temperature 0."""
    logits = {"rows": rows, "vocab": vocab, "ties": ties, "excluded": excluded, "kind": kind}
    inputs = {**logits, "greedy": greedy}
    most = max(260 if is_large else 64, rows)
    return Case(
        name,
        {"vocab": vocab},
        inputs,
        further=further,
        max_tokens=most,
        is_large=is_large,
        keeps_outputs=keeps_outputs,
    )


def make(seed: int, *, excluded: int, kind: str, **arguments: Any) -> Any:
    """Make the arguments; the logits of ``excluded`` tokens of each row are -∞.

    Parameters
    ----------
    kind : str
        ``"any"``, or which rows they are: ``"rules"`` = those of ``sample_rules``, ``"flat"`` =
        of nearly equal logits, ``"far"`` = of large ones, ``"low"`` = far below 0, ``"boundary"``
        = where the random number is nearly at the end of a token, ``"boundary_of_top_p"`` = where
        top_p, or the number, is, ``"one"`` = with one finite logit, ``"turns"`` =
        any, for calls with ``KINDS_IN_TURN``.
    """
    made: Any = load_op("sample").inputs(seed, **arguments)
    logits, batch = made
    logits[:, 7 : 7 + excluded] = -math.inf
    if kind == "rules":
        _obey_rules(seed, logits, batch)
    elif kind == "flat":
        logits.mul_(0.03)
    elif kind == "low":
        logits.sub_(20_000)
    elif kind == "far":
        logits.mul_(3000).add_(40_000)
        batch.temperature.mul_(700)
    elif kind == "one":
        kept = logits[:, 5].clone()
        logits.fill_(-math.inf)
        logits[:, 5] = kept
    elif kind == "boundary":
        _near_boundaries(seed, logits, batch)
    elif kind == "boundary_of_top_p":
        _near_boundaries(seed, logits, batch)
        batch.top_p.fill_(0.999)
        _near_top_p(seed, logits, batch)
    return logits, batch


def _filter_by(batch: Any, name: str, value: Any) -> None:
    """Filter by one parameter; with the name of no parameter, by none."""
    for each, off in (("top_k", 0), ("top_p", 1.0), ("min_p", 0.0)):
        values = getattr(batch, each)
        values.fill_(off)
        if each == name:
            values.copy_(values.new_tensor(value))


def _obey_rules(seed: int, logits: Any, batch: Any) -> None:
    rows = sample_rules.rows(seed % 10_000, logits.shape[0] // len(sample_rules.RULES))
    logits.fill_(sample_rules.NEXT_TO_NOTHING)
    for number, row in enumerate(rows):
        for token, logit in row.logits.items():
            logits[number, token] = logit
        batch.seed[number], batch.position[number] = row.seed, row.position
        for name in ("temperature", "top_k", "top_p", "min_p"):
            getattr(batch, name)[number] = getattr(row.rule, name)


def _near_boundaries(seed: int, logits: Any, batch: Any) -> None:
    """Two tokens, the first of which ends where float32 cannot tell it from the random number."""
    logits.fill_(-math.inf)
    batch.temperature.fill_(1)
    batch.top_k.fill_(0)
    batch.top_p.fill_(1)
    batch.min_p.fill_(0)
    position = seed
    for row in range(logits.shape[0]):
        while not 0.55 < (number := uniform(seed, position)) < 0.95:
            position += 1
        batch.seed[row], batch.position[row] = seed, position
        position += 1
        logits[row, 3], logits[row, 11] = 0, math.log((1 - number) / number)


def _near_top_p(seed: int, logits: Any, batch: Any) -> None:
    """Make the first token of every second row reach top_p as nearly, and draw the second."""
    position = seed
    for row in range(0, logits.shape[0], 2):
        batch.top_p[row] = 0.55 + 0.35 * row / logits.shape[0]
        top_p = float(batch.top_p[row])
        while uniform(seed, position) < top_p + 0.02:
            position += 1
        batch.position[row] = position
        position += 1
        logits[row, 11] = math.log((1 - top_p) / top_p)


def calls(calls: Calls) -> None:
    """Besides the usual, go on to the next position, and give rows each other's seeds."""
    if not calls.subject.case.is_large:
        next_positions(calls)
    if calls.subject.case.inputs["kind"] == "turns":
        kinds_of_batches(calls)
    usual_calls(calls)


def next_positions(calls: Calls) -> None:
    """Draw as an engine does that decodes: the same rows, one position further each time."""
    logits, batch = calls.make(0, 40)
    for step in range(3):
        position = batch.position + step
        moved = dataclasses.replace(batch, position=position)
        calls.call(f"{step} positions further", (logits, moved))
        batch.position.add_(5)
        calls.call("after the positions were raised in place", (logits, batch))
    swapped = dataclasses.replace(batch, seed=batch.seed.flip(0))
    calls.call("with each other's seeds", (logits, swapped))
    hotter = dataclasses.replace(batch, temperature=batch.temperature * 2)
    calls.call("with other temperatures", (logits, hotter))


KINDS_IN_TURN = (
    ("greedy", "drawn", "all"),
    ("drawn", "greedy", "drawn", "top_k"),
    ("top_k", "top_p", "min_p"),
    ("min_p", "top_k", "greedy"),
    ("all", "drawn", "top_p"),
)
"""What each implementation is called with, from its first call on."""


def kinds_of_batches(calls: Calls) -> None:
    """Call implementations whose first batch is of one kind, and whose later ones are of others."""
    filters = {"top_k": 2, "top_p": 0.1, "min_p": 0.6}
    for turn, kinds in enumerate(KINDS_IN_TURN):
        implementation = calls.subject.make()
        for number, kind in enumerate(kinds):
            logits, batch = calls.make(0, 50 + 5 * turn + number)
            is_greedy = kind == "greedy"
            batch.temperature.fill_(0 if is_greedy else 2)
            if kind != "all":
                _filter_by(batch, kind, filters.get(kind))
            batch = dataclasses.replace(batch, all_greedy=is_greedy)
            context = f"with a batch that is {kind}, of {', '.join(kinds)}"
            calls.call(context, (logits, batch), by=implementation)


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
        case("rules", len(sample_rules.RULES), sample_rules.VOCAB, greedy=0, kind="rules"),
        case("boundaries", 12, 17, greedy=0, kind="boundary"),
        case("large_numbers", 9, kind="far"),
        case("one_token_left", 5, 17, kind="one"),
        case("low_numbers", 9, excluded=3, kind="low"),
        case("boundaries_of_top_p", 16, 17, greedy=0, kind="boundary_of_top_p"),
        case("many_rows", 260, 17, greedy=0.5, is_large=True),
        case("wider_65540", 4, 65_540, greedy=0.2, kind="flat", is_large=True),
        case("wider_131080", 3, 131_080, greedy=0, kind="flat", is_large=True),
        case("wider_262150", 3, 262_150, greedy=0, kind="flat", is_large=True),
        case("widest_greedy", 2, 262_150, greedy=1, is_large=True),
        case(
            "calls",
            5,
            greedy=0.2,
            further=({"rows": 1, "greedy": 0}, {"rows": 17}, {"greedy": 1}, {"rows": 3}),
        ),
        case(
            "calls_of_all_kinds",
            5,
            greedy=0,
            kind="turns",
            further=({"rows": 3},),
            is_large=True,
        ),
        case(
            "many_times",
            2,
            9,
            greedy=0,
            further=of_any_size(rows=(3,) * MANY_TIMES),
            is_large=True,
            keeps_outputs=True,
        ),
        case("calls_of_any_size", 130, 9, further=of_any_size(rows=MANY[:14]), is_large=True),
    ),
    ("logits", "batch"),
    lambda kernel, arguments: kernel(*arguments),
    calls=calls,
    make=make,
    dtypes=("float32",),
)
