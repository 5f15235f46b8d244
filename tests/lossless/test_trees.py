"""Trees: what an adversary would have certified, and what is right although it looks odd."""

from __future__ import annotations

import pytest

from nldc.check.lossless import prove
from nldc.check.lossless.outcomes import Agreed, outcomes
from nldc.ir.graph import Graph
from tests.lossless.hash_model import first_difference
from tests.lossless.mutants import base_text, built

TREE = base_text("prompt_lookup_tree")
OF = "of: group == branch}"
PATH = ("keep kept.path", "keep other.path")
ACCEPT = "rule: longest_branch, branches: 2, "


def edited(*edits: tuple[str, str]) -> Graph:
    text = TREE
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return built(text)[1]


def another(of: str) -> tuple[str, str]:
    """Return the edit that adds a second accept of the tree."""
    line = f"  other:  {{op: accept, draft: tree, target: choice, {ACCEPT}of: {of}}}\n"
    return "  kept:  ", f"{line}  kept:  "


@pytest.mark.parametrize(
    ("edits", "code"),
    [
        ([another("group == branch and index < 3"), PATH], "NLD114"),
        ([another("group == 0"), ("tokens: kept.tokens", "tokens: other.tokens")], "NLD113"),
        ([(OF, "of: group == 0}"), ("keep kept.path", "keep kept.matches")], "NLD114"),
        ([(OF, "of: row > branch and row < branch + 4}")], "NLD101"),
    ],
)  # fmt: skip
def test_two_accepts_are_not_taken_for_one(edits: list[tuple[str, str]], code: str) -> None:
    graph = edited(*edits)
    assert code in {problem.code for problem in prove(graph).problems}
    assert first_difference(graph, 30) is not None


@pytest.mark.parametrize(
    "edits",
    [
        [(OF, "of: group == 1 - branch}")],
        [(OF, "of: group == 0}")],
        [("ngram: 1}", "ngram: ngram}")],  # both branches draft the same
        [(OF, "of: (index == 0 and group == 0) or (index > 0 and group == branch)}")],
        [(OF, "of: group == 0}"), ("keep kept.path", "keep kept.rows")],
        [another("group == 1 - branch")],
    ],
)
def test_what_is_ars_whichever_branch_is_taken_is_certified(edits: list[tuple[str, str]]) -> None:
    graph = edited(*edits)
    assert prove(graph).proved == "exact"
    assert first_difference(graph, 30) is None


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (PATH, "NLD114"),
        (("seed: kept.bonus", "seed: other.bonus"), "NLD116"),
    ],
)
def test_that_no_branch_is_longer_than_the_one_that_is_taken_proves_nothing(
    edit: tuple[str, str], code: str
) -> None:
    # Both take a branch with as many matches, so this is AR's; the proof does not look so far.
    graph = edited(another("group == 1 - branch"), edit)
    assert code in {problem.code for problem in prove(graph).problems}
    assert first_difference(graph, 30) is None


def test_a_tree_inside_a_loop_only_drafts() -> None:
    text = base_text("tree_in_a_loop")
    graph = built(text)[1]
    assert prove(graph).proved == "exact"
    assert first_difference(graph, 30) is None
    with pytest.raises(ValueError, match="`held` is not defined here"):
        built(text.replace("keep kept.rows", "keep held.path"))


def test_an_outcome_is_a_branch_and_its_matches() -> None:
    graph = built(TREE)[1]
    found = [outcome["step.kept"] for outcome in outcomes(graph, graph.steps[0])]
    assert found == [Agreed(n, branch) for branch in (0, 1) for n in range(5)]
    assert prove(graph).outcomes == len(found)
