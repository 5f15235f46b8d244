"""Tables that fit a width."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nldc.tabular import table, wrap

ROWS = [("ar", "1.0", "one causal forward a token"), ("linear_ss", "12.5", "a draft, and a check")]
HEADING = ("name", "TPF", "what it does")


def test_columns_are_aligned_and_numbers_stand_right() -> None:
    assert list(table(ROWS, HEADING)) == [
        "name        TPF  what it does",
        "ar          1.0  one causal forward a token",
        "linear_ss  12.5  a draft, and a check",
    ]


def test_cells_are_wrapped_between_words_where_columns_would_not_fit() -> None:
    assert list(table(ROWS, HEADING, width=32)) == [
        "name        TPF  what it does",
        "ar          1.0  one causal",
        "                 forward a token",
        "linear_ss  12.5  a draft, and a",
        "                 check",
    ]


def test_rows_stand_apart_where_words_would_have_to_be_cut() -> None:
    assert list(table(ROWS, HEADING, width=20)) == [
        "ar",
        "  TPF 1.0",
        "  what it does: one",
        "    causal forward a",
        "    token",
        "linear_ss",
        "  TPF 12.5",
        "  what it does: a",
        "    draft, and a",
        "    check",
    ]


def test_numbers_of_a_row_that_stands_apart_share_lines() -> None:
    rows = [("ar", "1.00", "653.7", "1.00", "2.5")]
    heading = ("strategy", "TPF", "tokens/s", "to AR", "accepted")
    assert list(table(rows, heading, width=30)) == [
        "ar",
        "  TPF 1.00, tokens/s 653.7, to",
        "  AR 1.00, accepted 2.5",
    ]


def test_a_path_is_never_cut() -> None:
    path = "/a/path/that/is/wider/than/the/terminal"
    assert path in "\n".join(table([("ok", path)], width=20))


def test_there_are_tables_of_nothing() -> None:
    assert list(table([])) == []
    assert list(table([("", "")], width=20)) == [""]


def test_what_stands_before_a_text_takes_columns_of_its_first_line() -> None:
    assert wrap("one two", 8, "  ", taken=4) == ["one", "  two"]
    assert wrap("longer", 8, "  ", taken=4) == ["longer"]


CELLS = st.text(alphabet="ab1. ", max_size=30)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=4), st.booleans())
def test_no_line_is_wider_but_by_one_word_and_no_word_is_lost(
    rows: list[tuple[str, str, str]], headed: bool
) -> None:
    heading = HEADING if headed else ()
    lines = list(table(rows, heading, width=20))
    for line in lines:
        assert len(line) <= 20 or len(line.split()) == 1
    found = " ".join(lines).replace(",", " ").replace(":", " ").split()
    for row in rows:
        for cell in row:
            for word in cell.split():
                found.remove(word)
