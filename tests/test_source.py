"""Reading strategy files: data, places, and everything YAML may do that a strategy may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nldc.diagnostics import Diagnostic, Span, StrategyError
from nldc.source import MAX_BYTES, Source, load, parse

TEXT = """\
nldc: 1
name: demo        # a comment
on: off
params:
  k: {type: int, default: 32}
  t: {type: float, default: 0.5, help: "a \\"b\\" c"}

# about the step
step:
  seen:
    attention: k.prefix or
      q.kind == draft
    parts: [a, 'it''s', "x\\u0041y"]
  note: |
    first line
      second
  after: last

# the end
"""


NOT_PART = "not part of the strategy language"


@pytest.fixture
def source() -> Source:
    return parse(TEXT, "demo.yaml")


def text_at(source: Source, span: Span) -> str:
    lines = source.text.splitlines()
    assert source.text[span.start : span.end] != "" or span.start == span.end
    if span.start_line == span.end_line:
        line = lines[span.start_line - 1] if lines else ""
        assert (
            line[span.start_column - 1 : span.end_column - 1] == source.text[span.start : span.end]
        )
    return source.text[span.start : span.end]


def mistakes(text: str) -> tuple[Diagnostic, ...]:
    with pytest.raises(StrategyError) as caught:
        parse(text, "demo.yaml")
    return caught.value.diagnostics


def test_what_a_caller_does_to_the_data_changes_no_later_reading() -> None:
    first = parse(TEXT)
    first.data["params"]["k"]["default"] = 64
    assert parse(TEXT).data["params"]["k"]["default"] == 32


def test_data_is_plain(source: Source) -> None:
    assert source.data == {
        "nldc": 1,
        "name": "demo",
        "on": "off",
        "params": {
            "k": {"type": "int", "default": 32},
            "t": {"type": "float", "default": 0.5, "help": 'a "b" c'},
        },
        "step": {
            "seen": {
                "attention": "k.prefix or q.kind == draft",
                "parts": ["a", "it's", "xAy"],
            },
            "note": "first line\n  second\n",
            "after": "last",
        },
    }


@pytest.mark.parametrize(
    ("path", "key", "text"),
    [
        (("nldc",), True, "nldc"),
        (("nldc",), False, "1"),
        (("on",), True, "on"),
        (("params", "k", "default"), False, "32"),
        (("params", "k"), False, "{type: int, default: 32}"),
        (("params", "t", "help"), False, '"a \\"b\\" c"'),
        (("step", "seen", "parts", 1), False, "'it''s'"),
        (("step", "seen", "parts", 1), True, "'it''s'"),
        (("step", "seen", "missing"), False, "seen"),
        (("step", "seen", "missing", "deeper"), False, "seen"),
        (("missing",), False, "nldc"),
        ((), False, "nldc"),
        (("step", "note"), False, "|\n    first line\n      second"),
    ],
)
def test_every_key_and_value_has_its_place(
    source: Source, path: tuple[str | int, ...], key: bool, text: str
) -> None:
    assert text_at(source, source.span(path, key=key)) == text


def test_a_block_ends_with_its_last_value(source: Source) -> None:
    assert text_at(source, source.span(("step",))).endswith("after: last")
    assert text_at(source, source.span(("params",))).endswith('c"}')


@pytest.mark.parametrize(
    ("path", "part", "text"),
    [
        (("step", "seen", "attention"), "k.prefix", "k.prefix"),
        (("step", "seen", "attention"), "q.kind", "q.kind"),
        (("step", "seen", "attention"), "or q", "or\n      q"),
        (("step", "seen", "parts", 1), "s", "s"),
        (("step", "seen", "parts", 2), "y", "y"),
        (("params", "t", "help"), "b", "b"),
        (("step", "note"), "first", "first"),
        (("step", "note"), "second", "second"),
    ],
)
def test_characters_inside_a_value_have_their_place(
    source: Source, path: tuple[str | int, ...], part: str, text: str
) -> None:
    at = source.at(path).index(part)
    assert text_at(source, source.inside(path, at, at + len(part))) == text


def test_the_end_of_a_value_has_a_place(source: Source) -> None:
    path = ("name",)
    span = source.inside(path, 4, 4)
    assert (span.start_line, span.start_column, span.end_column) == (2, 11, 11)


def test_a_place_that_cannot_be_told_is_the_whole_value(source: Source) -> None:
    assert source.inside(("nldc",), 0, 1) == source.span(("nldc",))
    assert source.inside(("name",), 2, 99) == source.span(("name",))
    assert source.inside(("missing",), 0, 1) == source.span(("missing",))
    indented = parse("a: |2\n   x\n", "demo.yaml")
    assert indented.inside(("a",), 0, 1) == indented.span(("a",))


@pytest.mark.parametrize("style", ["a: {}", "a: '{}'", 'a: "{}"', "a: |\n  {}", "a: >\n  {}"])
@given(text=st.from_regex(r"[a-z]+( [a-z(.+]+)*", fullmatch=True), data=st.data())
def test_any_range_of_a_one_line_value_maps_to_the_same_characters(
    style: str, text: str, data: st.DataObject
) -> None:
    source = parse(style.format(text) + "\n", "demo.yaml")
    value = source.data["a"]
    if not isinstance(value, str):
        return
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    span = source.inside(("a",), start, end)
    assert text_at(source, span) == value[start:end]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("True", "True"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-3", -3),
        ("010", "010"),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("0.25", 0.25),
        ("1e-3", 0.001),
        (".5", ".5"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("=", "="),
        ("$prompt", "$prompt"),
        ("k.prefix", "k.prefix"),
    ],
)
def test_scalars_are_what_they_look_like(text: str, value: object) -> None:
    found = parse(f"a: {text}\n").data["a"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "code", "line", "column", "message"),
    [
        ("", "NLD008", 1, 1, "a strategy is a mapping of keys to values"),
        ("# nothing\n", "NLD008", 1, 1, "a strategy is a mapping of keys to values"),
        ("- a\n", "NLD008", 1, 1, "a strategy is a mapping of keys to values"),
        ("just text\n", "NLD008", 1, 1, "a strategy is a mapping of keys to values"),
        ("a: 1\nb: 2\na: 3\n", "NLD004", 3, 1, "the key `a` appears twice"),
        ("a: {b: 1, b: 2}\n", "NLD004", 1, 11, "the key `b` appears twice"),
        ("a: &x 1\n", "NLD005", 1, 4, f"YAML anchors are {NOT_PART}"),
        ("a: *x\n", "NLD005", 1, 4, f"YAML aliases are {NOT_PART}"),
        ("a: !!python/name:os.system x\n", "NLD005", 1, 4, f"YAML tags are {NOT_PART}"),
        ("a: !!str 1\n", "NLD005", 1, 4, f"YAML tags are {NOT_PART}"),
        ("a: {<<: {b: 1}}\n", "NLD005", 1, 5, f"YAML merge keys are {NOT_PART}"),
        ("a: 1\n---\nb: 2\n", "NLD005", 2, 1, f"YAML streams of documents are {NOT_PART}"),
        ("1: a\n", "NLD007", 1, 1, "a key is a name, not `1`"),
        ("true: a\n", "NLD007", 1, 1, "a key is a name, not `true`"),
        ("? [a]\n: b\n", "NLD007", 1, 3, "a key is a name, not a list or a mapping"),
        ("a: " + "9" * 5000 + "\n", "NLD009", 1, 4, "the number has more than 18 digits"),
        ("a: 1e999\n", "NLD009", 1, 4, "the number `1e999` is too large"),
        ("a: b\x00\n", "NLD002", 1, 5, "the character U+0000 cannot be part of a strategy"),
        ("a: b\u202ec\n", "NLD002", 1, 5, "the character U+202E cannot be part of a strategy"),
        ("a: \ud800\n", "NLD002", 1, 4, "the character U+D800 cannot be part of a strategy"),
        ("a: b: c\n", "NLD003", 1, 5, "a second `:` in one value"),
        ("a:\n\tb: 1\n", "NLD003", 2, 1, "a tab cannot indent YAML"),
        ("a: [1, 2\nb: 3\n", "NLD003", 2, 2, "expected `,` or `]`"),
        ("a: {b: c[0]}\n", "NLD003", 1, 9, "expected `,` or `}`"),
        ("a: 'open\n", "NLD003", 2, 1, "the file ends too early"),
        ("a: @x\n", "NLD003", 1, 4, "a value cannot start with `@`"),
    ],
)  # fmt: skip
def test_a_mistake_has_a_code_a_place_and_a_sentence(
    text: str, code: str, line: int, column: int, message: str
) -> None:
    (found,) = mistakes(text)
    assert found.span is not None
    assert (found.code, found.span.start_line, found.span.start_column, found.message) == (
        code,
        line,
        column,
        message,
    )


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("a:\n  b: {}\n   c: 2\n", 4, "3"),
        ("a:\n  b: 1\n c: 2\n", 2, "1 or 3"),
        ("a:\n  b:\n    c: 1\n   d: 2\n", 4, "3 or 5"),
        ("a:\n  b:\n    c: 1\n d: 2\n", 2, "1, 3 or 5"),
        ("a: {b: 1,\n     c: 2}\n d: 3\n", 2, "1"),
        ("a: 1\n b: 2\n", 2, None),  # YAML takes that for a value of two lines
    ],
)
def test_a_wrong_indentation_says_which_columns_would_do(
    text: str, column: int, expected: str | None
) -> None:
    with pytest.raises(StrategyError) as caught:
        parse(text, "x.yaml")
    (found,) = caught.value.diagnostics
    assert found.code == "NLD003"
    if expected is None:
        assert found.message == "a second `:` in one value"
        return
    assert found.message == "a line is indented by the wrong number of spaces"
    assert found.labels[0].text == f"column {column}"
    assert found.labels[0].span.start_column == column
    assert found.help == (f"begin it at column {expected}",)


def test_all_mistakes_that_can_be_found_are_reported_together() -> None:
    found = mistakes("a: &x 1\na: *x\n2: !t b\n")
    assert [d.code for d in found] == ["NLD005", "NLD004", "NLD005", "NLD007", "NLD005"]


def test_a_duplicate_key_points_at_both_places() -> None:
    (found,) = mistakes("a: 1\na: 2\n")
    assert [(label.span.start_line, label.primary) for label in found.labels] == [
        (2, True),
        (1, False),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 10_000,
        "a: " + "{b: " * 10_000,
        "\n".join(" " * n + "a:" for n in range(400)),
        "- " * 5_000,
        "? " * 5_000,
        "a: [" + "1," * 60_000 + "]",
        "a: {" + ",".join(f"k{n}: 1" for n in range(15_000)) + "}",
        "a: " + "x" * MAX_BYTES,
    ],
)
def test_deep_wide_and_long_files_are_refused_in_a_moment(text: str) -> None:
    assert {d.code for d in mistakes(text)} <= {"NLD006", "NLD007"}


def test_the_billion_laughs_are_refused_at_the_first_anchor() -> None:
    text = 'a: &a ["lol","lol"]\n' + "".join(
        f"{new}: &{new} [*{old},*{old},*{old}]\n"
        for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    )
    assert {d.code for d in mistakes(text)} == {"NLD005"}


def test_a_byte_order_mark_is_ignored_and_moves_no_column(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    source = load(path)
    assert source.data == {"a": 1, "b": 2}
    assert str(source.span(("b",))) == f"{path}:2:4"


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (b"a: \xff\n", "NLD002", "is not UTF-8 text: byte 0xff in line 1"),
        ("a: 1\n".encode("utf-16"), "NLD002", "is UTF-16 text"),
        (b"#" * (MAX_BYTES + 1), "NLD006", "is larger than 256 KiB"),
    ],
)
def test_a_file_that_is_no_text_is_refused(
    tmp_path: Path, data: bytes, code: str, message: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(data)
    with pytest.raises(StrategyError) as caught:
        load(path)
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == (code, f"`{path}` {message}")


def test_a_file_that_cannot_be_read_is_a_diagnostic(tmp_path: Path) -> None:
    for path, reason in [
        (tmp_path / "no.yaml", "no such file or directory"),
        (tmp_path, "is a directory"),
    ]:
        with pytest.raises(StrategyError) as caught:
            load(path)
        (found,) = caught.value.diagnostics
        assert (found.code, found.message) == ("NLD001", f"cannot read `{path}`: {reason}")
    with pytest.raises(StrategyError):
        load("a\0b")


@given(st.text(alphabet="ab01:-?[]{},&*!|>'\"%@#\\ \t\n~.", max_size=60))
def test_any_text_is_read_or_refused_with_places_inside_it(text: str) -> None:
    try:
        source = parse(text, "any.yaml")
    except StrategyError as error:
        spans = [label.span for d in error.diagnostics for label in d.labels]
    else:
        spans = [source.span(path) for path in source.spans]
        for path in source.spans:
            value = source.at(path)
            if isinstance(value, str):
                spans += [source.inside(path, n, n + 1) for n in range(len(value))]
    assert all(0 <= span.start <= span.end <= len(text) for span in spans)
