"""A trace without text has no token of anybody's in it, whatever else it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from nldc.trace import document
from nldc.trace.private import without_text
from tests.trace.conftest import Watch

TOLD = {"tokens", "targets", "first", "second"}
"""Fields whose whole numbers are tokens, where they are a tuple."""
OTHER = {
    *("accepted", "adapted", "branch", "by", "chosen", "drafted", "format", "forwards", "kept"),
    *("length", "line", "live", "masked", "nfe", "number", "params", "positions", "rows"),
    *("sequence", "tokens", "verified", "waiting"),
}
"""Fields whose whole numbers count, or name rows, positions, forwards and choices."""
PROMPTS = [[1, 38, 26, 1, 38], [5, 9]]


def tokens_in(value: Any, name: str = "") -> Iterator[int]:
    """Every token that a document, or a part of it, has."""
    if is_dataclass(value):
        for item in fields(value):
            yield from tokens_in(getattr(value, item.name), item.name)
    elif isinstance(value, tuple):
        for each in value:
            if isinstance(each, int) and name in TOLD | {"prompt"}:
                yield each
            else:
                yield from tokens_in(each, name)


@pytest.mark.parametrize("name", ["linear_ss_iterative", "block_diffusion"])
def test_no_token_is_left(name: str, watched: Watch) -> None:
    ran, _ = watched(name).run(PROMPTS, {"max_new_tokens": 8})
    trace = replace(ran, options={**ran.options, "stop": ["secret"]})
    assert any(part.rounds for step in trace.steps for part in step.parts)
    assert any(tokens_in(trace))
    private = without_text(trace)
    assert list(private.pieces) == [each.prompt for each in private.sequences if each.prompt] == []
    assert "stop" not in private.options
    assert not any(tokens_in(private))


def test_of_every_field_with_whole_numbers_it_is_known_whether_they_are_tokens() -> None:
    named = {
        item.name
        for kind in vars(document).values()
        if is_dataclass(kind)
        for item in fields(kind)
        if "int" in str(item.type) or "Source" in str(item.type)
    }
    assert named - TOLD - OTHER - {"prompt"} == set()
