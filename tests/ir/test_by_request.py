"""Params that requests bring: where they may stand, and what is known of them."""

from __future__ import annotations

import pytest

from nldc.check.lossless import prove
from nldc.check.rules import examine
from nldc.diagnostics import StrategyError
from nldc.expr import parse as expression
from nldc.interpret import run
from nldc.ir.build import Built, build
from nldc.ir.by_request import RuntimeParam, fixed, range_of, surely
from nldc.ir.text import show_graph
from nldc.source import parse
from tests.lossless.hash_model import HashModel, noisy

FILE = """nldc: 1
name: tried
summary: A draft that is denoised and verified, where requests may say something.
guarantee: exact
params:
  size: {type: int, default: 4, min: 2, max: 9}
  few:  {type: int, default: 2, min: 1, max: 4, runtime: true}
  bar:  {type: float, default: 0.5, min: 0.0, max: 1.0, runtime: true}
adapters:
  drafter: {kind: lora, optional: true}
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed:    {op: sample, logits: context.last}
  emit:    {tokens: seed}
carry: {seed: prefill.seed}
route: {single: live > 4}
steps:
  single:
    context: {op: forward, tokens: seed, attention: causal, cache: append}
    choice:  {op: sample, logits: context}
    emit:    {tokens: choice, cache: keep all, next: {seed: choice}}
  drafting:
    block:   {op: rows, segments: [{tokens: seed}, {masks: size - 1}]}
    drafted:
      op: repeat
      on: block
      until: full
      at_most: size
      body:
        seen:  {op: forward, tokens: block, attention: "true", predicts: self, position: row, adapter: {drafter: "row > 0"}, cache: read}
        pick:  {op: sample, logits: seen, temperature: 0.5}
        sure:  {op: score, logits: seen, tokens: pick, by: probability}
        take:  {op: select, among: block.masked, score: sure, at_least: 0.5, where: row > 8, always: best 1}
        block: {op: fill, rows: block, where: take, tokens: pick}
    found:   {op: lookup, length: 2, ngram: 2}
    all:     {op: join, parts: ["drafted.tokens[0:4]"]}
    checked: {op: forward, tokens: all, attention: causal, cache: append}
    choice:  {op: sample, logits: checked}
    kept:    {op: accept, draft: all, target: choice, rule: longest_prefix}
    emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}
"""  # noqa: E501  (lines of YAML, which do not wrap)

STANDS = {
    "a bound on scores": ("at_least: 0.5", "at_least: bar"),
    "an expression": ("at_least: 0.5", "at_least: bar * 0.5 + 0.25 * iteration"),
    "a condition on rows": ("where: row > 8", "where: row > few and score > bar"),
    "a number of rows": ("always: best 1", "always: best few"),
    "a temperature": ("temperature: 0.5", "temperature: bar * 2"),
}
COMPILED = {
    "a size": ("masks: size - 1", "masks: few"),
    "attention": ('attention: "true"', 'attention: "k.row < few or true"'),
    "a position": ("position: row", "position: row * few"),
    "rows of an adapter": ("row > 0", "row > few"),
    "a choice of rows": ("[0:4]", "[0:few]"),
    "rounds": ("at_most: size", "at_most: few"),
    "a length": ("length: 2", "length: few"),
    "a route": ("live > 4", "live > few"),
    "appended rows": (
        "tokens: all, attention: causal, cache: append",
        'tokens: all, attention: causal, cache: {append: "row < few * 2"}',
    ),
}


def made(old: str = "", new: str = "", text: str = FILE) -> Built:
    assert not old or text.count(old) == 1
    return build(parse(text.replace(old, new) if old else text))


@pytest.mark.parametrize("place", STANDS)
def test_where_a_step_asks_requests_may_say(place: str) -> None:
    graph = made(*STANDS[place]).graph
    assert graph is not None
    assert "bar" in show_graph(graph).split("prefill:")[1] or "few" in show_graph(graph)
    assert prove(graph).proved == "exact"


@pytest.mark.parametrize("place", COMPILED)
def test_where_something_is_compiled_in_they_may_not(place: str) -> None:
    found = made(*COMPILED[place]).found
    errors = [each for each in found if each.severity == "error"]
    assert [each.code for each in errors] == ["NLD039"]
    assert errors[0].help == ("compile `few` in: leave `runtime: true` out",)
    same = FILE.replace("max: 4, runtime: true", "max: 4")
    assert made(*COMPILED[place], same).graph is not None, "compiled in, it may stand there"


def test_real_numbers_count_no_rows_whoever_brings_them() -> None:
    found = made("always: best 1", "always: best bar").found
    assert [each.code for each in found if each.severity == "error"] == ["NLD036"]


def test_what_is_too_large_for_some_value_is_refused() -> None:
    text = FILE.replace("max: 4, runtime", "max: 2000000000, runtime")
    built = made("always: best 1", "always: best few * 2", text)
    assert built.graph is not None
    found = examine(built.graph, parse(text.replace("always: best 1", "always: best few * 2")))
    assert "NLD037" in {each.code for each in found.diagnostics}


def test_a_param_that_follows_a_checkpoint_comes_with_no_request() -> None:
    built = made("max: 4, runtime: true", "max: 4, checkpoint: block_size, runtime: true")
    assert [each.code for each in built.found if each.severity == "error"] == ["NLD014"]


def test_a_setting_is_another_default_within_the_bounds() -> None:
    graph = build(parse(FILE), {"few": 3, "bar": 0.25}).graph
    assert graph is not None
    assert graph.runtime == {
        "few": RuntimeParam("int", 3, 1, 4),
        "bar": RuntimeParam("float", 0.25, 0.0, 1.0),
    }
    with pytest.raises(StrategyError, match="few"):
        build(parse(FILE), {"few": 5})


def test_the_proof_takes_no_default_for_the_value() -> None:
    """Some rows are filled in each round only if every value fills some."""
    loose = FILE.replace("guarantee: exact", "guarantee: none").replace(
        "emit:    {tokens: kept.tokens, cache: keep kept.rows, next: {seed: kept.bonus}}",
        "emit:    {tokens: all, cache: keep all, next: {seed: kept.bonus}}",
    )
    for low, code in ((1, None), (0, "NLD118")):
        text = loose.replace("min: 1, max: 4", f"min: {low}, max: 4")
        text = text.replace("always: best 1", "always: best few").replace("at_least: 0.5, ", "")
        source = parse(text)
        graph = build(source).graph
        assert graph is not None
        found = [d.code for d in examine(graph, source).diagnostics if d.severity == "error"]
        assert found == ([] if code is None else [code])


def test_the_certificate_names_the_values_that_it_is_for() -> None:
    graph = made("at_least: 0.5", "at_least: bar").graph
    assert graph is not None
    data = prove(graph).data()
    assert data["params"] == {"size": 4}
    assert data["for_every"] == {"few": [1, 4], "bar": [0.0, 1.0]}


def test_a_graph_for_one_value_is_the_one_that_is_compiled_with_it() -> None:
    old, new = STANDS["an expression"]
    text = FILE.replace(old, new)
    graph = made(text=text).graph
    assert graph is not None
    for bar in (0.0, 0.3, 1.0):
        plain = text.replace("max: 1.0, runtime: true", "max: 1.0")
        own = build(parse(plain), {"bar": bar}).graph
        assert own is not None
        assert fixed(graph, {"bar": bar}).steps == own.steps


def test_ranges_hold_whatever_is_brought() -> None:
    declared = {"few": RuntimeParam("int", 2, 1, 4), "any": RuntimeParam("int", 0, -3, 3)}
    found = range_of(expression("few * any + iteration"), declared, {"iteration": 5})
    assert (found.low, found.high) == (-7, 17)
    assert surely(expression("rank < few"), declared, {"rank": 0})
    assert not surely(expression("rank < few"), declared, {"rank": 1})
    assert not surely(expression("rank < few or row > 3"), declared, {"rank": 1})


def test_the_interpreter_chooses_at_a_drafters_temperature() -> None:
    graph = made("temperature: 0.5", "temperature: bar").graph
    assert graph is not None
    heats: set[float] = set()

    def at(temperature: float) -> object:
        heats.add(temperature)
        return noisy(7, temperature)

    model = HashModel((1, 2), seed=3)
    own = {"few": 1}
    for bar in (0.25, 1.0):
        found = run(graph, model, (1, 2), 8, params={**own, "bar": bar}, at=at)  # type: ignore[arg-type]
        assert found.tokens == HashModel((1, 2), seed=3).expected(8)
    assert heats == {0.25, 1.0}
    with pytest.raises(ValueError, match="temperature"):
        run(graph, model, (1, 2), 8, params={"bar": 0.25})
