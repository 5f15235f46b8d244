"""Stop strings across pieces, and text that is held back no longer than needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nldc.runtime.text.stopping import StopStrings


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


Piece = tuple[str, bool]


def marked(stops: list[str], pieces: list[Piece]) -> tuple[str, bool]:
    watch = StopStrings(stops)
    text = "".join(watch.feed(piece, marker=marker) for piece, marker in pieces)
    return text + watch.flush(), watch.found


END: Piece = ("<|end|>", True)


@pytest.mark.parametrize(
    ("stops", "pieces", "text", "found"),
    [
        (["<|end|>"], [("ab", False), END, ("c", False)], "ab", True),
        (["<|end|>"], [("ab<|e", False), ("nd|>c", False)], "ab", True),
        (["x<|end|>"], [("abx", False), END], "ab", True),
        (["<|end|>\n"], [("ab", False), END, ("\nc", False)], "ab", True),
        (["<|end|>\n"], [("ab", False), END, ("c", False)], "abc", False),
        (["<|end|><|end|>"], [("a", False), END, END, ("b", False)], "a", True),
        (["<"], [("a", False), END, ("b<c", False)], "ab", True),
        (["end"], [("a", False), END, ("b", False)], "ab", False),
        (["a<|"], [("a", False), END, ("b", False)], "ab", False),
        (["|>b"], [("a", False), END, ("b", False)], "ab", False),
        (["ab"], [("a", False), END, ("b", False)], "ab", False),
        ([], [("a", False), END, ("b", False)], "ab", False),
    ],
)
def test_a_stop_string_may_name_a_marker_but_no_part_of_one(
    stops: list[str], pieces: list[Piece], text: str, found: bool
) -> None:
    assert marked(stops, pieces) == (text, found)


@given(
    st.lists(st.text("a<e>", min_size=1, max_size=4), min_size=1, max_size=2),
    st.lists(st.one_of(st.just(("<e>", True)), st.tuples(st.text("a<e>", max_size=3),
                                                        st.just(False))), max_size=7),
)  # fmt: skip
def test_markers_are_never_shown_and_all_other_text_is_until_a_stop(
    stops: list[str], pieces: list[Piece]
) -> None:
    text, found = marked(stops, pieces)
    whole = "".join(piece for piece, marker in pieces if not marker)
    assert whole.startswith(text)
    assert found or text == whole
