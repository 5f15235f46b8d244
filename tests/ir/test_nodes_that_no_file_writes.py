"""Lists and Counts that are carried become nodes, whose names are those of no other."""

from __future__ import annotations

from nldc.ir.build import build
from nldc.ir.graph import Graph
from nldc.source import parse

HEAD = """nldc: 1
name: mine
summary: Carried values named like each other, and like nodes.
guarantee: none
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  start_a: {op: sample, logits: context.last}
  emit:    {tokens: start_a}
"""
STEP = """step:
  context: {op: forward, tokens: s, attention: causal, cache: append}
  next_a:  {op: sample, logits: context}
  both:    {op: join, parts: [next_a, s]}
"""


def graph_of(text: str) -> Graph:
    graph = build(parse(text)).graph
    assert graph is not None
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names)
    return graph


def test_lists_that_are_carried() -> None:
    carry = "carry: {s: prefill.start_a, a: prefill.start_a, a_: prefill.start_a}\n"
    emit = "  emit: {tokens: next_a, cache: keep all, next: {s: next_a, a: [next_a], a_: [s]}}\n"
    (step,) = graph_of(HEAD + carry + STEP + emit).steps
    made = {name: value.node for name, value in step.next}
    assert made == {"s": "step.next_a", "a": "step.next_a_", "a_": "step.next_a__"}


def test_counts_that_are_carried() -> None:
    carry = "carry: {s: prefill.start_a, a: {start: 3, max: 7}, a_: {start: 4, max: 7}}\n"
    emit = "  emit: {tokens: next_a, cache: keep all, next: {s: next_a, a: a + 1, a_: a_ + 2}}\n"
    graph = graph_of(HEAD + carry + STEP + emit)
    begun = {item.name: item.initial.node for item in graph.carry}
    assert begun == {"s": "prefill.start_a", "a": "prefill.start_a_", "a_": "prefill.start_a__"}
    made = {name: value.node for name, value in graph.steps[0].next}
    assert made == {"s": "step.next_a", "a": "step.next_a_", "a_": "step.next_a__"}
