"""Stop strings: every way of cutting a text into pieces ends it at the same place."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from plait.stop_strings import StopStrings

LETTERS = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)


def by_character(text: str, stops: list[str], include: bool) -> str:
    """Cut where, character by character, a stop string first stands at the end."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end if include else end - max(map(len, found))]
    return text


@given(LETTERS, STOPS, st.booleans(), st.lists(st.integers(1, 5), max_size=12))
@example("abab", ["bab", "ab"], False, [4])
@example("aabb", ["aabb", "ab"], False, [1, 3])
def test_any_split_ends_where_the_whole_text_does(
    text: str, stops: list[str], include: bool, sizes: list[int]
) -> None:
    expected = by_character(text, stops, include)
    matcher = StopStrings(tuple(stops), include)
    grown, shown, rest = "", "", text
    for size in [*sizes, len(text) + 1]:
        before = len(grown)
        grown, rest = grown + rest[:size], rest[size:]
        hit = matcher.find(grown, before)
        if hit is not None:
            length, stop = hit
            assert stop in stops
            grown = grown[:length]
            break
        now = grown[: len(grown) - matcher.undecided(grown)]
        assert now.startswith(shown)
        shown = now
    assert grown == expected
    assert expected.startswith(shown)


@given(LETTERS, STOPS)
def test_no_more_is_held_back_than_a_continuation_can_take(text: str, stops: list[str]) -> None:
    matcher = StopStrings(tuple(stops))
    if matcher.find(text, 0) is not None:
        return
    held = matcher.undecided(text)
    cuts = [
        len(by_character(text + stop[start:], stops, False))
        for stop in stops
        for start in range(1, len(stop))
        if text.endswith(stop[:start])
    ]
    assert len(text) - held <= min([*cuts, len(text)])
    assert held == 0 or any(text.endswith(stop[:held]) and held < len(stop) for stop in stops)


def test_the_stop_string_is_told() -> None:
    matcher = StopStrings(("never", "END"))
    assert matcher.find("the END of", 0) == (4, "END")
    assert matcher.find("the END of", 7) is None
    assert matcher.find("the END of", 6) == (4, "END")
    assert StopStrings(("END",), include=True).find("the END of", 0) == (7, "END")
    assert StopStrings(("END",), include=True).undecided("the EN") == 0
    assert StopStrings(()).undecided("the EN") == 0
