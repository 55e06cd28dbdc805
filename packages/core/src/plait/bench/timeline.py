"""What an engine had given after each of its steps, and the times that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from plait_kernels.errors import PlaitError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Moment:
    """The return of one step.

    Attributes
    ----------
    seconds : float
        Since just before the first request was added.
    tokens : int
        Output tokens so far, of all requests.
    begun, ended : int
        Requests that have an output token, and those that are finished.
    """

    seconds: float
    tokens: int
    begun: int
    ended: int


def decode_seconds(moments: Sequence[Moment], requests: int) -> tuple[float, int]:
    """Return the mean time of a step that decodes all requests, and the number of such steps.

    An engine may return a step's outputs while the next one runs, so what is measured is the time
    between outputs: from the first moment at which every request has a token to the first at which
    one is finished.

    Raises
    ------
    PlaitError
        If that never was, or a request stood still in between.
    """
    first = next((i for i, moment in enumerate(moments) if moment.begun == requests), len(moments))
    last = next((i for i, moment in enumerate(moments) if moment.ended), len(moments))
    window = moments[first : last + 1]
    if len(window) < 2:
        text = (
            f"no step decoded all {requests} requests: some ended before others had begun; raise "
            "--output-tokens, or the memory for KV blocks or adapters (--llm, --peer-llm)"
        )
        raise PlaitError(text)
    if any((after.tokens - before.tokens) % requests for before, after in pairwise(window)):
        text = (
            f"not all of {requests} requests decoded in every step: some lost their memory to "
            "others; raise the memory for KV blocks (--llm, --peer-llm) or lower the batch"
        )
        raise PlaitError(text)
    steps = (window[-1].tokens - window[0].tokens) // requests
    return (window[-1].seconds - window[0].seconds) / steps, steps


def prefill_seconds(moments: Sequence[Moment], requests: int) -> float:
    """Return the time until every request has its first token."""
    return next(moment.seconds for moment in moments if moment.begun == requests)


def steady_seconds(moments: Sequence[Moment], requests: int) -> tuple[float, int]:
    """Return the mean time of a step while as many requests come as end, and the number of steps.

    From the first moment at which a request is finished to that at which the last of all
    ``requests`` has a token.

    Raises
    ------
    PlaitError
        If that was no time.
    """
    first = next((i for i, moment in enumerate(moments) if moment.ended), len(moments))
    last = next((i for i, moment in enumerate(moments) if moment.begun == requests), 0)
    if last <= first:
        text = (
            "the last request came before the first was finished: requests waited for memory; "
            "raise that for KV blocks or adapters (--llm, --peer-llm), or lower the batch"
        )
        raise PlaitError(text)
    return (moments[last].seconds - moments[first].seconds) / (last - first), last - first


def total_seconds(moments: Sequence[Moment]) -> float:
    """Return the time until every request is finished."""
    return moments[-1].seconds
