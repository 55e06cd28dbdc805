"""Times that follow from what an engine had given after each step."""

from __future__ import annotations

import pytest

from plait.bench.timeline import (
    Moment,
    decode_seconds,
    prefill_seconds,
    steady_seconds,
    total_seconds,
)
from plait_kernels.errors import PlaitError

# Three requests, the third one a step late; nothing came of the first step and of one later.
MOMENTS = [
    Moment(1.0, 0, 0, 0),
    Moment(3.0, 2, 2, 0),
    Moment(7.0, 5, 3, 0),
    Moment(8.0, 8, 3, 0),
    Moment(8.5, 8, 3, 0),
    Moment(10.0, 11, 3, 2),
    Moment(10.25, 12, 3, 3),
]


def test_times() -> None:
    assert decode_seconds(MOMENTS, requests=3) == (1.5, 2)
    assert prefill_seconds(MOMENTS, requests=3) == 7.0
    assert total_seconds(MOMENTS) == 10.25


def test_outputs_of_several_steps_at_once_count_as_such() -> None:
    merged = [MOMENTS[0], Moment(7.0, 5, 3, 0), Moment(11.0, 14, 3, 0), Moment(13.0, 17, 3, 3)]
    assert decode_seconds(merged, requests=3) == (1.5, 4)


def test_a_request_ended_before_another_began() -> None:
    moments = [Moment(1.0, 2, 1, 0), Moment(2.0, 4, 2, 1), Moment(3.0, 5, 2, 2)]
    with pytest.raises(PlaitError, match=r"no step decoded all 2 requests.*--output-tokens"):
        decode_seconds(moments, requests=2)
    with pytest.raises(PlaitError, match="no step decoded all 2 requests"):
        decode_seconds([Moment(1.0, 2, 2, 2)], requests=2)


def test_a_request_stood_still() -> None:
    moments = [*MOMENTS[:4], Moment(9.0, 10, 3, 0), Moment(10.0, 14, 3, 3)]
    with pytest.raises(PlaitError, match=r"not all of 3 requests decoded in every step"):
        decode_seconds(moments, requests=3)


def test_steps_while_requests_come_and_go() -> None:
    moments = [Moment(float(i * i), 3 * i, i, max(0, i - 3)) for i in range(12)]
    # From the fifth moment, at which one is finished, to the one at which ten have begun.
    assert steady_seconds(moments, requests=10) == ((10.0**2 - 4.0**2) / 6, 6)


def test_requests_that_had_to_wait() -> None:
    with pytest.raises(PlaitError, match=r"came before the first was finished.*--llm"):
        steady_seconds(MOMENTS, requests=3)
