"""Rows of logits by which two readings of the rules of ``sample`` are told apart.

A row's token depends on one random number. Here seeds are searched whose number picks one token by
the rules as they are, and another by a rule that is often taken for them. No torch is imported.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from itertools import count

from plait_kernels.ops.philox import uniform

VOCAB = 203
"""Tokens of a row; those that no rule names have next to no weight."""

NEXT_TO_NOTHING = -60.0
"""Logit of the other tokens."""


@dataclass(frozen=True)
class Rule:
    """Weights, parameters, and what is kept.

    Attributes
    ----------
    weights : tuple[float, ...]
        Of the first tokens, before the temperature: their logits are logarithms of these.
    kept : int
        How many of them may be drawn.
    mistaken : int
        How many could be by the other reading.
    top_k, top_p, min_p, temperature
        As of ``SampleBatch``.
    """

    weights: tuple[float, ...]
    kept: int
    mistaken: int
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    temperature: float = 1.0


@dataclass(frozen=True)
class Row:
    """A row of logits, by token id where they are not next to nothing."""

    logits: dict[int, float]
    seed: int
    position: int
    rule: Rule


_LONG_TAIL = (1.0, 0.5, 0.25, *(0.02,) * 100)

RULES: dict[str, Rule] = {
    "min_p comes after top_p": Rule(_LONG_TAIL, 3, 2, top_p=0.8, min_p=0.1),
    "top_p is of what top_k keeps": Rule(
        (1.0, 0.5, 0.45, *(0.05,) * 100), 2, 3, top_k=3, top_p=0.7
    ),
    "top_k keeps ties": Rule((1.0, *(0.5,) * 8), 9, 3, top_k=3),
    "top_k keeps all of many ties": Rule((1.0, *(0.5,) * 150), 151, 65, top_k=3),
    "top_p keeps all of many ties": Rule((1.0, *(0.5,) * 150), 151, 65, top_p=0.5),
    "top_k keeps ties of the largest": Rule((*(1.0,) * 5, 0.9), 5, 1, top_k=1),
    "top_k counts equal tokens one by one": Rule((*(1.0,) * 4, 0.8, 0.6), 5, 6, top_k=5),
    "top_p keeps ties": Rule((1.0, *(0.5,) * 8), 9, 2, top_p=0.25),
    "top_p keeps the token that reaches it": Rule((1.0, 0.6, 0.3), 2, 1, top_p=0.6),
    "top_p stops there": Rule((1.0, 0.6, 0.5, 0.4), 2, 3, top_p=0.6),
    "top_p keeps one at least": Rule((1.0, 0.9, 0.8), 1, 3, top_p=0.001),
    "min_p is of the largest weight": Rule((1.0, 0.5, 0.35, 0.25), 3, 4, min_p=0.3),
    "min_p of 1 keeps ties": Rule((1.0, 1.0, 1.0, 0.9), 3, 1, min_p=1.0),
    "min_p of 1 keeps no other": Rule((1.0, 1.0, 0.99, 0.98), 2, 4, min_p=1.0),
    "min_p is of scaled logits": Rule((1.0, 0.16), 2, 1, min_p=0.3, temperature=2.0),
    "top_p is of scaled logits": Rule((1.0, 0.25, 0.25, 0.01), 3, 1, top_p=0.55, temperature=2.0),
    "a low temperature": Rule((1.0, 0.995, 0.97), 2, 3, temperature=0.01, min_p=0.1),
    "a high temperature": Rule((1.0, 1e-9, 1e-12), 3, 1, temperature=50.0, top_k=3),
    "top_k beyond the vocabulary": Rule((1.0, 0.9, 0.8), 3, 1, top_k=2**30),
    "all three": Rule((1.0, 0.6, 0.5, 0.4, 0.05), 3, 4, top_k=4, top_p=0.8, min_p=0.3),
}
"""What each row is about."""


def token_of(place: int) -> int:
    """Return the id of the token with the weight at a place: they are not in order of weight."""
    return (83 * place + 7) % VOCAB


@functools.lru_cache(maxsize=8)
def rows(seed: int, per_rule: int) -> tuple[Row, ...]:
    """Make ``per_rule`` rows of each rule, whose tokens differ from what is mistaken for it."""
    made: list[Row] = []
    for rule in RULES.values():
        logits = {token_of(i): math.log(weight) for i, weight in enumerate(rule.weights)}
        found = 0
        for position in count(seed):
            number = uniform(seed, position)
            right = _draw(rule, rule.kept, number)
            if right is not None and right != (_draw(rule, rule.mistaken, number) or -1):
                made.append(Row(logits, seed, position, rule))
                found += 1
            if found == per_rule:
                break
    return tuple(made)


def _draw(rule: Rule, kept: int, number: float) -> int | None:
    """Draw in plain floats; None where another order of the sums might draw another token."""
    weights = {
        token_of(i): weight ** (1 / rule.temperature)
        for i, weight in enumerate(rule.weights[:kept])
    }
    left = number * sum(weights.values())
    for token in sorted(weights):
        if abs(left - weights[token]) < 1e-3:
            return None
        left -= weights[token]
        if left < 0:
            return token
    return None
