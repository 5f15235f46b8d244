"""What a row saw: rows of two runs have one mark if, and only if, they saw the same."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from nldc.trace.running import Watched
from nldc.trace.sight import Row, Sights
from tests.trace.conftest import Watch

PROMPT = [7, 12, 7, 31, 2]
OPTIONS = {"max_new_tokens": 8}


def rows_of(own: Watched, prompt: Sequence[int]) -> list[Row]:
    """All rows of a run, in the order in which they were computed."""
    found = Sights()
    steps = []
    with own.listening():
        told, own.tracer.told = own.tracer.told, steps.append
        own.decoder.generate([list(prompt)], **OPTIONS)
        own.tracer.told = told
    for step in steps:
        (part,) = step.parts
        found.add(step, part)
    return [row for step in found.rows.values() for rows in step for row in rows]


@pytest.mark.parametrize("name", ["linear_ss", "quadratic_ss", "linear_ss_tree", "lookahead"])
def test_a_row_that_verifies_has_the_mark_of_ars_row(watched: Watch, name: str) -> None:
    expected = {row.mark for row in rows_of(watched("ar"), PROMPT)}
    found = {row.mark for row in rows_of(watched(name), PROMPT)}
    assert len(expected) == len(PROMPT) + 7
    # the last tokens may come in a step whose last rows nobody needs
    assert len(expected - found) <= 1


def test_a_row_that_sees_ahead_has_no_mark_of_ar(watched: Watch) -> None:
    expected = {row.mark for row in rows_of(watched("ar"), PROMPT)}
    rows = [row for row in rows_of(watched("linear_ss"), PROMPT) if row.node.endswith(".seen")]
    assert rows
    assert not expected & {row.mark for row in rows}
    for row in rows:
        positions = [each.position for each in row.seen]
        assert positions == sorted(positions)
        assert row.position not in positions
        assert positions[:5] == [0, 1, 2, 3, 4]


def test_another_prompt_has_other_marks_from_where_it_differs(watched: Watch) -> None:
    one = rows_of(watched("ar"), PROMPT)
    two = rows_of(watched("ar"), [7, 12, 8, 31, 2])
    same = [a.mark == b.mark for a, b in zip(one, two, strict=True)]
    assert same == [True, True, *[False] * (len(one) - 2)]
