"""Bounded messages, and values that ask for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plait_kernels.arguments import asks_for_nothing, shown


@pytest.mark.parametrize(
    "value",
    [
        10**100_000,
        [10**100_000] * 9,
        "x" * 10_000_000,
        b"x" * 10_000_000,
        ["x" * 10_000_000] * 1000,
        dict.fromkeys(range(100_000)),
        [[[[["deep"] * 100] * 100] * 100] * 100] * 100,
        np.zeros((1000, 1000)),
    ],
    ids=["int", "ints", "text", "bytes", "texts", "dict", "nested", "array"],
)
def test_a_value_of_any_size_is_shown_in_a_few_hundred_characters(value: Any) -> None:
    assert 0 < len(shown(value)) < 1000


def test_a_value_that_cannot_be_written_is_named_by_its_class() -> None:
    class Broken:
        def __repr__(self) -> str:
            message = "no"
            raise RuntimeError(message)

    assert "Broken" in shown(Broken())


@pytest.mark.parametrize("value", [None, 1, -1.5, "text", [1, 2], {"a": 1}, True], ids=repr)
def test_a_short_value_is_shown_as_it_is(value: Any) -> None:
    assert shown(value) == repr(value)


@pytest.mark.parametrize("value", [None, False, "", [], (), {}, set(), frozenset(), b""], ids=repr)
def test_what_is_empty_asks_for_nothing(value: Any) -> None:
    assert asks_for_nothing(value)


def test_a_neutral_value_is_one_of_the_same_kind() -> None:
    assert asks_for_nothing(np.float64(1.0), (1,))
    assert not asks_for_nothing(True, (1,))
    assert not asks_for_nothing("1", (1,))
    assert not asks_for_nothing(np.ones(2), (1,))
    assert not asks_for_nothing(np.array(1), (1,))
    assert not asks_for_nothing(0)
    assert asks_for_nothing(0.0, (0,))
