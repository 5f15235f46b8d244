"""Texts are cut at the right places, however their tokens come and whatever is held back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nldc.runtime import Decoder
from nldc.runtime.engine.text import Text
from nldc.runtime.text.tokenizer import Tokenizer
from nldc.serve.tracing import Marks, TracedText

TOKENS = st.lists(
    st.sampled_from((2, 11, 12, 29, 202, 104, 105, 130, 160, 200, 268, 291, 520, 600))
)


@pytest.fixture(scope="session")
def tokenizer(decoder: Decoder) -> Tokenizer:
    return decoder.tokenizer


def spans_of(traced: TracedText, groups: list[list[int]]) -> tuple[str, list[tuple[str, int, str]]]:
    text, found = "", []
    for group in groups:
        piece, _ = traced.feed(group)
        spans = traced.take()
        assert "".join(span.text for span in spans) == piece
        text += piece
        found += spans
        if traced.stopped:
            break
    rest = traced.rest()
    spans = traced.take()
    assert "".join(span.text for span in spans) == rest
    return text + rest, [(each.text, each.token, each.channel) for each in (*found, *spans)]


@given(groups=st.lists(TOKENS), stop=st.sampled_from(("", "self", ":\n", "()", "fx")))
def test_spans_are_the_text_that_the_engine_shows(
    tokenizer: Tokenizer, groups: list[list[int]], stop: str
) -> None:
    stops = (stop,) if stop else ()
    plain = Text(tokenizer, stops)
    expected = ""
    for group in groups:
        expected += plain.feed(group)[0]
        if plain.stopped:
            break
    expected += plain.rest()
    found, spans = spans_of(TracedText(tokenizer, stops, Marks(11, 12, False)), groups)
    assert found == expected
    numbers = [number for _, number, _ in spans]
    assert numbers == sorted(numbers)


@given(tokens=TOKENS, inside=st.booleans())
def test_a_thought_is_cut_at_its_marks_though_a_stop_string_holds_text_back(
    tokenizer: Tokenizer, tokens: list[int], inside: bool
) -> None:
    letters = [token for token in tokens if token not in (104, 105, 130, 160, 200)]
    traced = TracedText(tokenizer, ("fselfself", ":(never"), Marks(11, 12, inside))
    _, spans = spans_of(traced, [[token] for token in letters])
    sides: dict[bool, list[int]] = {True: [], False: []}
    now = inside
    for token in letters:
        if token in (11, 12):
            now = token == 11
        else:
            sides[now].append(token)
    for channel, side in (("reasoning", True), ("content", False)):
        shown = "".join(text for text, _, its in spans if its == channel)
        assert shown == tokenizer.decode(sides[side])


def test_a_span_names_the_token_whose_text_it_is_though_it_came_later(tokenizer: Tokenizer) -> None:
    traced = TracedText(tokenizer, ("self:",))
    assert traced.feed((268,)) == ("", 1)
    assert traced.take() == ()
    traced.feed((520,))
    assert [(span.text, span.token) for span in traced.take()] == [("self", 0), ("def", 1)]


def test_half_a_character_belongs_to_the_token_that_began_it_last(tokenizer: Tokenizer) -> None:
    euro = tokenizer.encode("\u20ac")
    assert len(euro) == 3
    traced = TracedText(tokenizer, (), Marks(11, 12, True))
    assert traced.feed(euro[:2]) == ("", 2)
    assert traced.rest() == "\ufffd"
    assert [(span.text, span.channel) for span in traced.take()] == [("\ufffd", "reasoning")]
