"""Pairs of rows that a predicate lets through, against asking it for every pair."""

from __future__ import annotations

import pytest

from nldc import api
from nldc.codegen.pipeline import compiled, run
from nldc.codegen.program import Forward, Program, walk
from nldc.cost.visible import MOST_CLASSES, Visible, visible
from nldc.ir.build import build
from nldc.reuse import parse

WINDOW = """nldc: 1
name: window
summary: Rows that see a few before them.
guarantee: none
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed: {op: sample, logits: context.last}
carry: {seed: prefill.seed}
step:
  block: {op: rows, segments: [{tokens: seed}, {masks: 7}]}
  seen: {op: forward, tokens: block, cache: read, predicts: self,
         attention: "ATTENTION"}
  kept: {op: forward, tokens: seed, attention: causal, cache: append}
  pick: {op: sample, logits: seen}
  after: {op: sample, logits: kept}
  emit: {tokens: pick, cache: keep all, next: {seed: after}}
"""


def of(name: str, **settings: int) -> dict[str, Visible]:
    """What each forward of a strategy's step sees."""
    graph = build(parse(api.library()[name].read_text("utf-8"), "case.yaml"), settings).graph
    assert graph is not None
    return _seen(compiled(run(graph)))


def in_a_window(attention: str) -> Visible:
    graph = build(parse(WINDOW.replace("ATTENTION", attention), "case.yaml"), {}).graph
    assert graph is not None
    return _seen(compiled(run(graph)))["step.seen"]


def _seen(program: Program) -> dict[str, Visible]:
    layouts = {each.name: each for each in program.layouts}
    patterns = {each.name: each for each in program.patterns}
    return {
        each.origin.node: visible(layouts[each.layout], patterns[each.pattern], each.size.at(0))
        for method in program.steps
        for each in walk(method.body)
        if isinstance(each, Forward)
    }


def test_causal_rows_see_those_before_them_and_bidirectional_ones_all() -> None:
    assert of("linear_ss", block_length=16) == {
        "step.drafted.seen": Visible(16, 256),
        "step.checked": Visible(16, 136),
    }


@pytest.mark.parametrize("k", [2, 3, 8, 12])
def test_the_quadratic_layout_sees_drafts_before_it_and_its_own_group(k: int) -> None:
    drafts = k * (k + 1) // 2  # draft g sees drafts 0 to g
    masks = sum(k * (g + 1 + k) for g in range(k))  # and so does each mask, and its own group
    assert of("quadratic_ss", block_length=k) == {"step.both": Visible(k * (k + 1), drafts + masks)}


def test_rows_may_see_a_window_and_some_of_them_no_prefix() -> None:
    assert in_a_window("k.position > q.position - 2 and k.row <= q.row") == Visible(1, 15)
    assert in_a_window("q.row < 3 and k.prefix") == Visible(3, 0)
    assert in_a_window("k.row == q.row and not k.prefix") == Visible(0, 8)


def test_rows_that_differ_too_much_are_taken_to_see_each_other() -> None:
    rows = MOST_CLASSES + 1
    text = WINDOW.replace("masks: 7", f"masks: {rows - 1}")
    graph = build(parse(text.replace("ATTENTION", "k.row == q.row"), "case.yaml"), {}).graph
    assert graph is not None
    assert _seen(compiled(run(graph)))["step.seen"].own == rows * rows
