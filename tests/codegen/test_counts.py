"""Launches and waits of a step: counted of what is printed, loops at their most."""

from __future__ import annotations

import pytest

from nldc import api
from nldc.codegen.counts import Counts, step_counts
from nldc.codegen.pipeline import compiled, run
from nldc.codegen.print_decode import Header, print_decode
from nldc.ir.build import build
from nldc.reuse import parse


def total(name: str, **settings: int | float) -> Counts:
    (step,) = step_counts(api.check(name, settings, others=False).graph)
    return step.total


def test_a_step_without_a_loop_waits_for_the_device_only_at_its_end() -> None:
    for name in ("ar", "linear_ss", "quadratic_ss_lora", "prompt_lookup"):
        assert (total(name).host_waits, total(name).device_waits) == (1, 0)


def test_a_loop_waits_once_a_round_and_launches_its_body_as_often() -> None:
    one, two = (total("block_diffusion_steps", steps=steps) for steps in (2, 3))
    assert (one.host_waits, two.host_waits) == (3, 4)
    assert (one.device_waits, two.device_waits) == (2, 3)
    # a round: a forward, a head, a choice with its score, a selection, a fill, and who goes on
    assert two.launches - one.launches == 7


def test_the_parts_of_a_loop_count_with_the_loop() -> None:
    (step,) = step_counts(api.check("block_diffusion", others=False).graph)
    assert list(step.by_node) == [
        "step.block", "step.filled", "step.refresh", "step.after", "step.emit",
    ]  # fmt: skip
    assert step.by_node["step.refresh"] == Counts(launches=1)


TWO_LOOPS = """nldc: 1
name: two_loops
summary: A block is filled in three turns, each of which fills what its two rounds left.
guarantee: none
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed: {op: sample, logits: context.last}
carry: {seed: prefill.seed}
step:
  block: {op: rows, segments: [{tokens: seed}, {masks: 7}]}
  filled:
    op: repeat
    on: block
    until: full
    at_most: 3
    body:
      inner:
        op: repeat
        on: block
        until: full
        at_most: 2
        exhausted: INNER
        body:
          seen: {op: forward, tokens: block, attention: bidirectional, cache: read}
          pick: {op: sample, logits: seen}
          sure: {op: score, logits: seen, tokens: pick, by: probability}
          take: {op: select, among: block.masked, score: sure, best: 1}
          block: {op: fill, rows: block, where: take, tokens: pick}
      again: {op: forward, tokens: inner, attention: bidirectional, cache: read}
      last: {op: sample, logits: again}
      even: {op: score, logits: again, by: margin}
      some: {op: select, among: inner.masked, score: even, best: 1}
      block: {op: fill, rows: inner, where: some, tokens: last}
  kept: {op: forward, tokens: filled, attention: causal, cache: append}
  after: {op: sample, logits: kept.last}
  emit: {tokens: filled, cache: keep all, next: {seed: after}}
"""


def test_loops_in_loops_multiply_and_what_fills_their_rest_is_a_launch_each_time() -> None:
    counts = []
    for inner in ("keep", "fill"):
        graph = build(parse(TWO_LOOPS.replace("INNER", inner), "case.yaml")).graph
        assert graph is not None
        counts.append(step_counts(graph)[0].by_node["step.filled"])
    keep, fill = counts
    assert keep.host_waits == keep.device_waits == 3 + 3 * 2
    assert fill.launches - keep.launches == 3


@pytest.mark.parametrize("name", ["ar", "linear_ss_lora", "quadratic_ss", "prompt_lookup"])
def test_what_a_step_without_loops_launches_is_a_call_of_the_code_each(name: str) -> None:
    graph = api.check(name, others=False).graph
    text = print_decode(compiled(run(graph)), Header("case.yaml", "0", "0"))
    body = text.partition("def step(")[2]
    # one for what is emitted, two for a head with its choice
    calls = 1 + body.count("batch.forward(") + 2 * body.count("batch.head_choose(")
    ops = ("rows", "grouped_rows", "fill", "accept_longest_prefix", "join", "lookup")
    calls += sum(body.count(f"ops.{op}(") for op in ops)
    assert total(name).launches == calls


def test_every_step_of_several_is_counted() -> None:
    steps = step_counts(api.check("concurrency_router", others=False).graph)
    assert [step.step for step in steps] == ["single", "speculative"]
    assert "speculative.emit" in steps[1].by_node
