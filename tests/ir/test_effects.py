"""What nodes leave in the cache, what is alive, what a selection surely takes: one meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from nldc import api
from nldc.api import Checked
from nldc.codegen.pipeline import run
from nldc.expr import parse as parse_expr
from nldc.ir.effects import carries_prompt, forward_of, leaves_rows, leaving, live, takes_all
from nldc.ir.graph import Graph
from nldc.ir.ops import Forward, Repeat, Select, Value
from nldc.ir.scope import FALSE, TRUE
from nldc.ir.text import show_graph
from nldc.reuse import parse
from nldc.source import Span

ROOT = Path(__file__).resolve().parents[2]

LOOP = """\
nldc: 1
name: kept
summary: A loop whose keys stay.
guarantee: none
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed: {op: sample, logits: context.last}
carry: {seed: prefill.seed}
step:
  block: {op: rows, segments: [{tokens: seed}, {masks: 3}]}
  filled: {op: denoise, rows: block, attention: bidirectional, at_least: 1,
           commit: {confidence: 0.5}, KEYS}
  again: {op: forward, tokens: seed, attention: causal, cache: read}
  next: {op: sample, logits: again}
  emit: {tokens: next, cache: keep all, next: {seed: next}}
"""


def checked(text: str) -> Checked:
    return api.check_source(parse(text, "kept.yaml"))


def op_of(graph: Graph, name: str) -> Forward | Repeat | Select:
    op = graph.node(name).op
    assert isinstance(op, Forward | Repeat | Select)
    return op


@pytest.mark.parametrize(
    ("cache", "stays"),
    [
        ("append", TRUE),
        ("read", None),
        ('{append: "row < 2"}', "row < 2"),
        ('{append: "row < 0"}', "row < 0"),
    ],
)
def test_a_forward_leaves_the_rows_that_it_appends(cache: str, stays: object) -> None:
    text = LOOP.replace("KEYS", "keys: dropped").replace(
        "causal, cache: read", f"causal, cache: {cache}"
    )
    found = op_of(checked(text).graph, "step.again")
    left = leaving(found)
    assert leaves_rows(found) == (stays is not None)
    expected = parse_expr(stays) if isinstance(stays, str) else stays
    assert (None if left is None else left.append) == expected


def test_a_loop_that_keeps_its_keys_leaves_every_row_of_its_forward() -> None:
    loop = op_of(checked(LOOP.replace("KEYS", "keys: kept")).graph, "step.filled")
    left = leaving(loop)
    assert isinstance(loop, Repeat)
    assert left is not None
    assert left.append == TRUE
    assert forward_of(loop)[1].append == FALSE
    assert left.layout == forward_of(loop)[1].layout


def test_a_loop_is_used_if_its_keys_stay_though_nobody_reads_its_rows() -> None:
    kept, dropped = (checked(LOOP.replace("KEYS", f"keys: {word}")) for word in ("kept", "dropped"))
    assert [d.code for d in kept.warnings] == []
    assert {d.code for d in dropped.warnings} == {"NLD033"}
    assert "step.filled" in live(kept.graph)
    assert b"batch.append" in api.generate([kept])["decode.py"]
    assert "step.filled" not in show_graph(run(dropped.graph))


def test_a_node_of_a_body_that_its_result_does_not_need_is_unused_and_dropped() -> None:
    text = api.library()["slow_fast"].read_text(encoding="utf-8")
    body = next(line for line in text.splitlines() if "op: sample" in line and "seen" in line)
    name = body.strip().split(":")[0]
    idle = body.replace(f"{name}:", "idle:", 1)
    found = checked(text.replace(body, f"{body}\n{idle}"))
    assert [d.message for d in found.warnings if d.code == "NLD033"] == ["nothing uses `idle`"]
    assert ".idle" not in show_graph(run(found.graph))
    assert f".{name}" in show_graph(run(found.graph))


def test_what_is_carried_and_never_read_is_alive_only_where_that_is_asked() -> None:
    text = api.library()["ar"].read_text(encoding="utf-8")
    extra = text.replace("carry: {", "carry: {spare: prefill.seed, ").replace(
        "next: {", "next: {spare: choice, "
    )
    graph = checked(extra).graph
    assert live(graph) - live(graph, unread=False) == {"carry.spare"}


@pytest.mark.parametrize("name", sorted(api.library()))
def test_everything_in_the_library_is_alive(name: str) -> None:
    graph = api.check(name, others=False).graph
    assert {node.name for node in graph.nodes} <= live(graph)


@pytest.mark.parametrize(
    ("rule", "less", "numbers", "takes"),
    [
        ("0", False, {}, True),
        ("0.0", False, {}, True),
        ("-1", False, {}, True),
        ("0.1", False, {}, False),
        ("0", True, {}, False),
        ("1 - iteration", False, {}, False),
        ("1 - iteration", False, {"iteration": 1}, True),
        ("1 - iteration", False, {"iteration": 0}, False),
        ("0.5 - iteration * 0.5", False, {"iteration": 1}, False),
        (None, False, {}, False),
    ],
)
def test_a_selection_takes_all_where_its_bound_is_surely_not_above_any_probability(
    rule: str | None, less: bool, numbers: dict[str, int], takes: bool
) -> None:
    span = Span("x.yaml", 1, 1, 1, 1)
    value = Value("step.x", span)
    at_least = None if rule is None else parse_expr(rule)
    select = Select(value, value, less, at_least, None, None, None, None, None)
    assert takes_all(select, numbers) == takes


def test_nobody_else_decides_what_stays_in_the_cache() -> None:
    for path in (*(ROOT / "nldc").rglob("*.py"), *(ROOT / "codegen").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.name != "effects.py":
            assert ".append != FALSE" not in text, path
            assert 'op.keys == "kept"' not in text, path


CARRYING = """\
nldc: 1
name: carrying
summary: What the first step begins with.
guarantee: none
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed:    {op: sample, logits: context.last}
  known:   {op: join, parts: [seed, "$prompt.last"]}
  rows:    {op: rows, segments: [{tokens: "$prompt[-1:]"}, {masks: 1}]}
  filled:
    op: repeat
    on: rows
    until: full
    at_most: 1
    body:
      seen: {op: forward, tokens: rows, attention: bidirectional, cache: read}
      pick: {op: sample, logits: seen}
      rows: {op: fill, rows: rows, where: rows.masked, tokens: pick}
  looked:  {op: lookup, length: 2, ngram: 1}
  best:    {op: candidates, logits: context.last, count: 2}
  last:    {op: forward, tokens: filled, attention: bidirectional, cache: read}
  after:   {op: sample, logits: last.last}
  emit:    {tokens: seed}
carry: {begin: 'prefill.CARRIED', seed: prefill.seed}
step:
  context: {op: forward, tokens: seed, attention: causal, cache: append}
  choice:  {op: sample, logits: context}
  emit:    {tokens: choice, cache: keep all, next: {seed: choice, begin: begin}}
"""


@pytest.mark.parametrize(
    ("carried", "carries"),
    [
        ("seed", False),
        ("looked", False),
        ("best", False),
        ("after", False),
        ("known", True),
        ("known[:1]", True),  # decided node by node
        ("filled[1:]", True),
    ],
)
def test_only_tokens_of_the_prompt_themselves_need_it_in_steps(carried: str, carries: bool) -> None:
    assert carries_prompt(checked(CARRYING.replace("CARRIED", carried)).graph) is carries
