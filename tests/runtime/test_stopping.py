"""Stop strings across pieces, and text that is held back no longer than needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nldc.runtime.stopping import StopStrings


def shown(stops: list[str], pieces: list[str]) -> str:
    watch = StopStrings(stops)
    return "".join([*map(watch.feed, pieces), watch.flush()])


@pytest.mark.parametrize(
    ("stops", "pieces", "text"),
    [
        (["END"], ["abcENDdef"], "abc"),
        (["END"], ["abE", "N", "Ddef"], "ab"),
        (["END"], ["abE", "NxD"], "abENxD"),
        (["END"], ["abEN"], "abEN"),
        (["aab"], ["a", "a", "a", "b"], "a"),
        (["xyz", "b"], ["ab", "xyz"], "a"),
        (["cd", "bcde"], ["abcde"], "a"),
        ([], ["abc"], "abc"),
    ],
)
def test_text_ends_before_the_first_stop_string(
    stops: list[str], pieces: list[str], text: str
) -> None:
    assert shown(stops, pieces) == text


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    watch = StopStrings(["\n\n", "END"])
    assert watch.feed("one\n") == "one"
    assert watch.feed("two E") == "\ntwo "
    assert watch.feed("N") == ""
    assert watch.feed("x") == "ENx"


@given(
    st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=2),
    st.lists(st.text("ab", max_size=4), max_size=6),
)
def test_pieces_are_cut_as_soon_as_a_stop_string_is_complete(
    stops: list[str], pieces: list[str]
) -> None:
    whole = ""
    for letter in "".join(pieces):
        whole += letter
        ends = [whole.find(stop) for stop in stops if stop in whole]
        if ends:
            whole = whole[: min(ends)]
            break
    assert shown(stops, list("".join(pieces))) == whole
    found = shown(stops, pieces)
    assert whole.startswith(found) or found == whole
    assert not any(stop in found for stop in stops)
