"""Diagnostics as text: each test holds the whole text a user sees."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nldc.diagnostics import Diagnostic, Label
from nldc.render import render_json, render_line, render_text, summarize
from nldc.source import Source, line_starts

TEXT = """\
nldc: 1
name: 名前x  # wide
\ttab: here
step:
  a: {op: one, b: two}
  c:
    d: 1
    e: 2
    f: 3
    g: 4
    h: 5
    i: 6
    j: {a: 1,
       b: 2}
"""


def label(part: str, text: str = "", primary: bool = True, to: str | None = None) -> Label:
    start = TEXT.index(part)
    end = start + len(part) if to is None else TEXT.index(to) + len(to)
    return Label(Source("f.yaml", TEXT, {}, {}).span_of(start, end), text, primary)


def rendered(*labels: Label, **more: tuple[str, ...]) -> str:
    diagnostic = Diagnostic("NLD999", "error", "wrong", labels, **more)
    return render_text([diagnostic], lambda _: TEXT)


def test_one_label_with_help_and_a_note() -> None:
    found = rendered(label("two", "not `two`"), help=("write `three`",), notes=("because",))
    assert (
        found
        == """\
error[NLD999]: wrong
 --> f.yaml:5:19
  |
5 |   a: {op: one, b: two}
  |                   ^^^ not `two`
  |
help: write `three`
note: because
"""
    )


def test_several_labels_on_a_line_hang_below_each_other() -> None:
    found = rendered(
        label("two", "not `two`"), label("one", "first", False), label("a:", "the node", False)
    )
    assert (
        found
        == """\
error[NLD999]: wrong
 --> f.yaml:5:19
  |
5 |   a: {op: one, b: two}
  |   --      ---     ^^^ not `two`
  |   |       |
  |   |       first
  |   the node
"""
    )


def test_labels_that_overlap_keep_their_texts() -> None:
    found = rendered(label("op: one", "inner"), label("{op: one, b: two}", "outer", False))
    assert (
        found
        == """\
error[NLD999]: wrong
 --> f.yaml:5:7
  |
5 |   a: {op: one, b: two}
  |      -^^^^^^^---------
  |      ||
  |      |inner
  |      outer
"""
    )


def test_wide_characters_count_two_columns() -> None:
    assert (
        rendered(label("x", "here"))
        == """\
error[NLD999]: wrong
 --> f.yaml:2:9
  |
2 | name: 名前x  # wide
  |           ^ here
"""
    )


def test_tabs_are_widened_and_a_single_line_between_is_shown() -> None:
    assert (
        rendered(label("here", "after a tab"), label("nldc", "", False))
        == """\
error[NLD999]: wrong
 --> f.yaml:3:7
  |
1 | nldc: 1
  | ----
2 | name: 名前x  # wide
3 |     tab: here
  |          ^^^^ after a tab
"""
    )


def test_lines_far_apart_have_dots_between() -> None:
    assert (
        rendered(label("i:", "here"), label("nldc", "", False))
        == """\
error[NLD999]: wrong
  --> f.yaml:12:5
   |
 1 | nldc: 1
   | ----
...
12 |     i: 6
   |     ^^ here
"""
    )


def test_a_label_over_many_lines_is_a_bracket_with_its_middle_left_out() -> None:
    assert (
        rendered(label("c:\n", "all", to="b: 2}"), label("j:", "in it", False))
        == """\
error[NLD999]: wrong
  --> f.yaml:6:3
   |
 6 |     c:
   |  ___^
 7 | |     d: 1
...  |
13 | |     j: {a: 1,
   | |     -- in it
14 | |        b: 2}
   | |____________^ all
"""
    )


def test_brackets_inside_brackets_close_from_within() -> None:
    assert (
        rendered(label("h:", "all", to="b: 2}"), label("{a:", "one", False, "b: 2}"))
        == """\
error[NLD999]: wrong
  --> f.yaml:11:5
   |
11 |        h: 5
   |  ______^
12 | |      i: 6
13 | |      j: {a: 1,
   | | ________-
14 | ||        b: 2}
   | ||____________- one
   | |_____________^ all
"""
    )


def test_a_span_that_ends_with_a_line_break_ends_with_its_line() -> None:
    assert (
        rendered(label("d: 1\n", "the line"))
        == """\
error[NLD999]: wrong
 --> f.yaml:7:5
  |
7 |     d: 1
  |     ^^^^ the line
"""
    )


def test_the_empty_place_at_the_end_of_the_file_has_a_caret() -> None:
    end = Source("f.yaml", TEXT, {}, {}).span_of(len(TEXT), len(TEXT))
    assert (
        rendered(Label(end, "something is missing"))
        == """\
error[NLD999]: wrong
  --> f.yaml:15:1
   |
15 |
   | ^ something is missing
"""
    )


def test_without_the_file_the_place_is_still_named() -> None:
    diagnostic = Diagnostic("NLD999", "warning", "odd", (label("two"),))
    assert render_text([diagnostic], lambda _: None) == ("warning[NLD999]: odd\n --> f.yaml:5:19\n")


def test_without_a_place_there_is_the_message_and_the_help() -> None:
    assert rendered(help=("look elsewhere",)) == "error[NLD999]: wrong\nhelp: look elsewhere\n"


def test_a_very_long_line_is_cut_around_the_place() -> None:
    text = "a: " + "x" * 5000 + "!" + "y" * 5000
    span = Source("f.yaml", text, {}, {}).span_of(5003, 5004)
    found = render_text([Diagnostic("NLD999", "error", "m", (Label(span),))], lambda _: text)
    line, carets = found.splitlines()[3:5]
    assert len(line) < 200
    assert line[carets.index("^")] == "!"


def test_what_a_terminal_would_obey_is_shown_as_an_escape() -> None:
    text = "a: b\x1b[2Jc\n"
    span = Source("f.yaml", text, {}, {}).span_of(3, 4)
    diagnostic = Diagnostic("NLD999", "error", "no `\x1b[2J` here", (Label(span, "\x07"),))
    assert (
        render_text([diagnostic], lambda _: text)
        == """\
error[NLD999]: no `\\x1b[2J` here
 --> f.yaml:1:4
  |
1 | a: b\ufffd[2Jc
  |    ^ \\x07
"""
    )


def test_a_message_that_quotes_a_very_long_name_loses_its_middle() -> None:
    line = render_line(Diagnostic("NLD999", "error", f"no key `{'x' * 9000}` here"))
    assert len(line) < 1000
    assert line.endswith("x` here")


def test_color_changes_nothing_but_the_color() -> None:
    import re

    diagnostic = Diagnostic(
        "NLD999", "error", "wrong", (label("two", "a"), label("one", "b", False))
    )
    plain = render_text([diagnostic], lambda _: TEXT)
    painted = render_text([diagnostic], lambda _: TEXT, color=True)
    assert "\x1b[" in painted
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted) == plain


def test_one_line_form() -> None:
    diagnostic = Diagnostic("NLD999", "error", "wrong", (label("two"),))
    assert render_line(diagnostic) == "f.yaml:5:19: error[NLD999]: wrong"
    assert render_line(Diagnostic("NLD999", "error", "wrong")) == "error[NLD999]: wrong"


def test_json_form_has_every_field() -> None:
    diagnostic = Diagnostic("NLD999", "error", "wrong", (label("two", "here"),), ("h",), ("n",))
    assert json.loads(render_json([diagnostic])) == [
        {
            "code": "NLD999",
            "severity": "error",
            "message": "wrong",
            "file": "f.yaml",
            "place": [5, 19],
            "labels": [
                {
                    "file": "f.yaml",
                    "start": [5, 19],
                    "end": [5, 22],
                    "text": "here",
                    "primary": True,
                }
            ],
            "help": ["h"],
            "notes": ["n"],
        }
    ]


@pytest.mark.parametrize(
    ("severities", "sentence"),
    [
        ([], "no errors"),
        (["error"], "1 error; `nldc explain NLD999` tells more"),
        (["error", "error", "warning"], "2 errors and 1 warning; `nldc explain NLD999` tells more"),
    ],
)
def test_the_summary_counts(severities: list[str], sentence: str) -> None:
    found = [Diagnostic("NLD999", severity, "m") for severity in severities]  # type: ignore[arg-type]
    assert summarize(found) == sentence


@given(
    st.text(alphabet="ab名\t \n\u0301é", max_size=40),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.booleans()), max_size=4),
)
def test_any_labels_on_any_text_can_be_shown(
    text: str, ranges: list[tuple[int, int, bool]]
) -> None:
    source = Source("f.yaml", text, {}, {})
    labels = []
    for one, other, primary in ranges:
        start, end = sorted((min(one, len(text)), min(other, len(text))))
        labels.append(Label(source.span_of(start, end), f"<{start}>", primary))
    found = render_text([Diagnostic("NLD999", "error", "m", tuple(labels))], lambda _: text)
    for shown in labels:
        assert shown.text in found
    assert len(line_starts(text)) == text.count("\n") + 1


# A narrow terminal


NARROW = 40


def screen(line: str) -> int:
    return sum(2 if ord(sign) > 0x2E80 else 1 for sign in line)


def narrow(*labels: Label, **more: tuple[str, ...]) -> list[str]:
    message = "a message of many words that does not fit a line of this terminal"
    found = Diagnostic("NLD999", "error", message, labels, **more)
    wide = "".join(f"{line}{' ' * 10}# {'and so on ' * 5}\n" for line in TEXT.splitlines())
    lines = render_text([found], lambda _: wide, width=NARROW).splitlines()
    assert [line for line in lines if screen(line) > NARROW] == []
    return lines


def test_messages_help_and_notes_are_wrapped_and_nothing_is_lost() -> None:
    text = "a remedy that is longer than the terminal is wide"
    lines = narrow(label("two"), help=(text,), notes=(text,))
    assert lines[:3] == [
        "error[NLD999]: a message of many words",
        "  that does not fit a line of this",
        "  terminal",
    ]
    said = " ".join(line.strip() for line in lines)
    assert f"help: {text}" in said
    assert f"note: {text}" in said


def test_a_text_beside_a_caret_goes_below_where_it_does_not_fit() -> None:
    words = "words of a label that needs two lines"
    lines = narrow(label("two", words), label("one", "short", primary=False))
    at = next(n for n, line in enumerate(lines) if "^^^" in line)
    assert lines[at + 1].index("|", 5) == lines[at].index("---")
    assert words in " ".join(part.split("|")[-1].strip() for part in lines[at + 1 :])


def test_the_caret_stays_under_its_word_in_a_line_that_is_cut() -> None:
    text = f"a: {'x' * 70} two {'名' * 40}\n"
    at = text.index("two")
    span = Source("f.yaml", text, {}, {}).span_of(at, at + 3)
    found = Diagnostic("NLD999", "error", "m", (Label(span),))
    lines = render_text([found], lambda _: text, width=NARROW).splitlines()
    (shown,), (marks,) = ([each for each in lines if sign in each] for sign in ("two", "^^^"))
    assert screen(shown[: shown.index("two")]) == marks.index("^^^")
    assert screen(shown) <= NARROW
    assert shown.count("…") == 2


def test_labels_over_several_lines_fit_too() -> None:
    narrow(label("c:", "a label over some lines, with words", to="h: 5"), label("two"))


def test_a_line_that_fits_is_shown_whole() -> None:
    text = f"{'x' * (NARROW - 5)}\n"
    found = Diagnostic("N", "error", "m", (Label(Source("f", text, {}, {}).span_of(0, 3)),))
    assert text.strip() in render_text([found], lambda _: text, width=NARROW)


@given(st.text(alphabet="ab \t名…", max_size=90), st.data())
def test_no_line_of_a_file_is_wider_than_the_terminal(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, max(0, len(text) - 1)))
    label_ = Label(Source("f", text, {}, {}).span_of(at, len(text)), "some words to say of it")
    found = Diagnostic("NLD999", "error", "m", (label_,))
    for line in render_text([found], lambda _: text, width=NARROW).splitlines():
        assert screen(line) <= NARROW
