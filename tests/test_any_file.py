"""Whatever is done to a good file, the compiler accepts it or says what is wrong, and where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nldc import api, source
from nldc.diagnostics import StrategyError
from nldc.render import render_json, render_line, render_text

FRAGMENT = Path(__file__).parent / "diagnostics" / "NLD024_free_name" / "good.yaml"
FILES = [path.read_text(encoding="utf-8") for path in (*api.library().values(), FRAGMENT)]
WORDS = sorted({word for text in FILES for word in re.findall(r"[\w$.]+|[^\w\s]", text)})
ODD = [
    "",
    "null",
    "[]",
    "{}",
    "-1",
    "0",
    "1e9",
    "true",
    "''",
    "a.b.c",
    "9" * 12,
    "x[0]",
    "not",
    "=",
]


def check(text: str) -> None:
    try:
        api.check_source(source.parse(text, "any.yaml"))
    except StrategyError as error:
        found = error.diagnostics
    else:
        return
    spans = [label.span for diagnostic in found for label in diagnostic.labels]
    own = [span for span in spans if span.file == "any.yaml"]
    assert all(0 <= span.start <= span.end <= len(text) for span in own)
    for diagnostic in found:  # what lies in another file says where this one leads there
        files = {label.span.file for label in diagnostic.labels}
        assert "any.yaml" in files or not files
    assert all(diagnostic.message for diagnostic in found)
    assert render_text(found, lambda _: text)
    assert render_json(found)
    assert all(render_line(diagnostic) for diagnostic in found)


@st.composite
def edited(draw: st.DrawFn) -> str:
    """A file of the library with a few words replaced, removed or repeated."""
    pieces = re.split(r"([\w$.]+|[^\w\s])", draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(pieces) - 1))
        pieces[place] = draw(st.sampled_from([*WORDS, *ODD, pieces[place] * 2]))
    return "".join(pieces)


@given(edited())
@settings(max_examples=150, deadline=None)
def test_edited_files_are_accepted_or_refused(text: str) -> None:
    check(text)


values = st.recursive(
    st.sampled_from([*WORDS, *ODD, 0, 1, -1, 2.5, True, None]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(WORDS), inner, max_size=2)
    ),
    max_leaves=4,
)


@st.composite
def reshaped(draw: st.DrawFn) -> str:
    """A file of the library with one value of any depth replaced by another of any shape."""
    data = yaml.safe_load(draw(st.sampled_from(FILES)))
    node = data
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw(st.sampled_from(keys))
        inner = node[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            node[key] = draw(values)
            return str(yaml.safe_dump(data, sort_keys=False))
        node = inner


@given(reshaped())
@settings(max_examples=150, deadline=None)
def test_files_with_a_value_of_another_shape_are_accepted_or_refused(text: str) -> None:
    check(text)


@pytest.mark.parametrize("name", api.library())
def test_every_file_of_the_library_is_clean(name: str) -> None:
    assert api.check(name).warnings == ()


@pytest.mark.parametrize("name", api.library())
def test_every_first_part_of_a_file_is_accepted_or_refused(name: str) -> None:
    text = api.library()[name].read_text(encoding="utf-8")
    for end in range(0, len(text), 97):
        check(text[:end])


@pytest.mark.parametrize("name", ["linear_ss", "concurrency_router"])
def test_a_step_with_nothing_in_it_is_refused_in_words(name: str) -> None:
    text = api.library()[name].read_text(encoding="utf-8")
    start = "  single:\n" if "steps:" in text else "step:\n"
    with pytest.raises(StrategyError) as caught:
        api.check_source(source.parse(text[: text.index(start) + len(start)], "any.yaml"))
    assert caught.value.diagnostics
