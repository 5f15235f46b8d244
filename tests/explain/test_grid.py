"""Who sees whom, row by row: what the predicate says, and why by what is proved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nldc import api
from nldc.explain.build import explained
from nldc.explain.model import Grid, Wrong
from nldc.explain.paint import Pen
from nldc.explain.print_grid import print_grid
from nldc.expr import evaluate
from nldc.ir.facts import facts_of, pair_lookup, row_lookup
from nldc.ir.ops import Forward
from tests.explain.told import forward, line

PLAIN = Pen(colored=False)
ROOT = Path(__file__).parents[2]
DIAGNOSTICS = ROOT / "tests" / "diagnostics"


def pairs(grid: Grid) -> set[tuple[int, int]]:
    """Every pair of rows of which the first sees the second."""
    lines = grid.lines
    return {
        (row, key)
        for query in lines
        for first, last in query.sees
        for seen in lines[first : last + 1]
        for row in range(query.first, query.last + 1)
        for key in range(seen.first, seen.last + 1)
    }


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize(
    ("name", "node"),
    [("quadratic_ss", "step.both"), ("tidar", "step.both"), ("linear_ss_tree", "step.checked"),
     ("wino", "step.filled.seen"), ("lookahead", "step.seen")],
)  # fmt: skip
def test_a_grid_has_the_pairs_that_the_predicate_lets_through(
    name: str, node: str, merge: bool
) -> None:
    graph = api.check(name, others=False).graph
    op = graph.node(node).op
    assert isinstance(op, Forward)
    facts = []
    for row in op.layout.rows(0):
        own = row_lookup(facts_of(row, graph.kinds), graph.kinds, {})
        facts.append(facts_of(row, graph.kinds, int(evaluate(op.position, own))))
    expected = {
        (a, b)
        for a, query in enumerate(facts)
        for b, key in enumerate(facts)
        if evaluate(op.attention.predicate, pair_lookup(query, key, graph.kinds))
    }
    found = forward(name, node, merge=merge).grid
    assert pairs(found) == expected
    assert [each.position for each in found.lines] == [
        facts[each.first]["position"] for each in found.lines
    ]


def test_rows_that_are_alike_share_a_line_and_it_is_said() -> None:
    grid = forward("quadratic_ss", "step.both", merge=True).grid
    assert [(each.first, each.last) for each in grid.lines[:3]] == [(0, 0), (1, 8), (9, 9)]
    assert grid.note == "rows that are alike share a line"
    assert len(forward("quadratic_ss", "step.both").grid.lines) == 72


def test_a_thousand_rows_are_drawn_in_few_lines() -> None:
    found = forward("quadratic_ss", "step.both", block_length=32)
    assert found.rows == 1056
    assert len(found.grid.lines) == 64
    small = forward("quadratic_ss", "step.both", block_length=32, most=10).grid
    assert len(small.lines) == 10
    assert small.note.endswith("the first 165 of 1056 rows are drawn")


def test_why_a_row_is_needed_follows_the_outcomes() -> None:
    first = line("linear_ss", "step.checked", 0)
    assert first.needed
    assert "in 16 of 16 outcomes" in first.why[1]
    later = line("linear_ss", "step.checked", 13)
    assert later.why[0] == "It sees all of the cache and rows 0-13 of this forward."
    assert later.why[1] == (
        "The proof rests on it: it chooses token 13 of those that come out, and its key and value "
        "stay in the cache, in 3 of 16 outcomes."
    )
    drafter = line("linear_ss", "step.drafted.seen", 3)
    assert not drafter.needed
    assert "changes no token" in drafter.why[1]


def test_rows_of_the_prompt_are_needed_and_masks_behind_it_are_not() -> None:
    grid = forward("quadratic_ss", "prefill.first").grid
    assert [each.needed for each in grid.lines] == [True] * 6 + [False] * 8
    assert grid.columns == ()
    assert grid.note == "for a prompt of 6 tokens"


def test_a_row_of_what_is_not_exact_says_what_speaks_against_it() -> None:
    lines = forward("block_diffusion", "step.refresh").grid.lines
    assert not any(each.needed for each in lines)
    assert lines[0].why[-1].startswith("Nothing is proved of this strategy")


def test_the_prompt_and_the_text_behind_it_are_two_columns_where_they_are_asked_for() -> None:
    grid = forward("guided", "step.filled.blind").grid
    assert grid.columns == ("prompt", "text")
    assert {each.cached for each in grid.lines} == {("none", "all")}


def test_an_adapter_is_named_on_the_rows_that_it_is_on() -> None:
    mask = line("quadratic_ss_lora", "step.both", 1)
    assert mask.adapted
    assert "The adapter drafter is on it." in mask.why
    assert not line("quadratic_ss_lora", "step.both", 0).adapted


def test_a_grid_in_characters_tells_tokens_from_masks() -> None:
    found = forward("quadratic_ss", "step.both", block_length=2)
    assert list(print_grid(found, 80, Pen(colored=False))) == [
        "                    cache",
        "  ✓     0 draft +0  ■     ■·····",
        "        1 mask +1   ■     ■□□···",
        "        2 mask +2   ■     ■□□···",
        "  ✓     3 draft +1  ■     ■··■··",
        "        4 mask +2   ■     ■··■□□",
        "        5 mask +3   ■     ■··■□□",
    ]


def wrong(file: Path) -> Grid:
    """The grid of the forward that a mistake of a strategy names."""
    checked, mistakes = api.look(str(file), {}, others=False)
    assert mistakes
    (found,) = (
        each.grid
        for each in explained(checked, merge=True).forwards
        if any(line.wrong for line in each.grid.lines)
    )
    return found


def test_rows_that_a_mistake_names_are_lines_of_their_own() -> None:
    grid = wrong(DIAGNOSTICS / "NLD103_verifier_sees_masks" / "bad.yaml")
    assert [(line.first, line.last) for line in grid.lines[:3]] == [(0, 0), (1, 1), (2, 4)]
    assert grid.lines[0].wrong == Wrong(cached=False, lines=(1,))
    assert [line.wrong for line in grid.lines[1:]] == [None] * (len(grid.lines) - 1)


def test_a_mistake_about_the_cache_is_marked_there() -> None:
    lines = wrong(DIAGNOSTICS / "NLD106_window" / "bad.yaml").lines
    (found,) = (each.wrong for each in lines if each.wrong is not None)
    assert found == Wrong(cached=True, lines=())


def test_a_mistake_in_a_prefill_is_drawn_at_the_length_at_which_it_was_found(
    tmp_path: Path,
) -> None:
    file = tmp_path / "bad.yaml"
    text = (ROOT / "strategies" / "ar.yaml").read_text("utf-8")
    file.write_text(text.replace("attention: causal", "attention: bidirectional", 1), "utf-8")
    grid = wrong(file)
    (line,) = (each for each in grid.lines if each.wrong is not None)
    assert line.wrong is not None
    (key,) = line.wrong.lines
    assert grid.lines[key].first > line.first


def test_columns_that_have_no_room_leave_those_that_a_mistake_names() -> None:
    found = forward("quadratic_ss", "step.both", merge=True)
    last = len(found.grid.lines) - 1
    lines = (replace(found.grid.lines[0], wrong=Wrong(True, (last,))), *found.grid.lines[1:])
    drawn = list(print_grid(replace(found, grid=replace(found.grid, lines=lines)), 40, PLAIN))
    assert drawn[1].startswith("  !     0 draft +0  ")
    assert drawn[1].endswith("!")
    assert drawn[1].count("!") == 3
    assert "columns are of rows" in " ".join(drawn[last + 2 :])
    assert max(map(len, drawn)) <= 40


@pytest.mark.parametrize("room", [20, 30, 40, 60])
def test_every_row_is_listed_however_narrow_it_is(room: int) -> None:
    found = forward("quadratic_ss", "step.both", merge=True, most=40)
    drawn = [line for line in print_grid(found, room, PLAIN) if " +" in line]
    assert len(drawn) == len(found.grid.lines)
    assert max(map(len, drawn)) <= room
