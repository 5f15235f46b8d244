"""Every emitted token went through `sample`, whatever the strategy promises."""

from __future__ import annotations

import pytest

from nldc.check.lossless import prove
from nldc.check.lossless.constraints import constraints
from nldc.diagnostics import Diagnostic
from tests.lossless.mutants import STRATEGIES, base_text, built

PREFILL = """nldc: 1
name: x
summary: x
guarantee: none
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed:    {op: sample, logits: context.last}
carry: {seed: prefill.seed}
step:
"""


def found_in(text: str) -> list[Diagnostic]:
    source, graph = built(text)
    return list(constraints(graph, source))


def codes(step: str) -> list[str]:
    return [diagnostic.code for diagnostic in found_in(PREFILL + step)]


def test_the_library_goes_through_sample() -> None:
    for path in STRATEGIES.glob("*.yaml"):
        assert found_in(path.read_text("utf-8")) == [], path.stem


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("ar", ("prefill.seed", "step.choice")),
        ("prompt_lookup", ("prefill.seed", "step.choice")),
        ("quadratic_ss", ("prefill.seed", "step.choice")),
        ("block_diffusion", ("prefill.seed", "step.filled.pick", "step.after")),
        ("concurrency_router", ("prefill.seed", "single.choice", "speculative.choice")),
    ],
)
def test_the_certificate_names_the_nodes_that_every_emitted_token_goes_through(
    name: str, nodes: tuple[str, ...]
) -> None:
    certificate = prove(built(base_text(name))[1])
    assert certificate.sampled_by == nodes
    assert certificate.data()["constraints"]["nodes"] == list(nodes)


def test_a_strategy_with_too_many_outcomes_to_look_at_is_refused() -> None:
    drafts = "".join(
        f"""  block{n}: {{op: rows, segments: [{{tokens: seed}}, {{masks: 31}}]}}
  seen{n}:  {{op: forward, tokens: block{n}, attention: bidirectional, cache: read}}
  guess{n}: {{op: sample, logits: seen{n}}}
  kept{n}:  {{op: accept, draft: guess{n}, target: guess{max(0, n - 1)}, rule: longest_prefix}}
"""
        for n in range(3)
    )
    emit = """  last:  {op: forward, tokens: seed, attention: causal, cache: append}
  emit:  {tokens: kept2.tokens, cache: keep all, next: {seed: kept1.bonus}}
"""
    (diagnostic,) = found_in(PREFILL + drafts + emit)
    assert diagnostic.code == "NLD121"
    assert "more than 5000 outcomes" in diagnostic.labels[0].text


def test_what_a_lookup_found_is_refused_with_its_way() -> None:
    (diagnostic,) = found_in(
        PREFILL
        + """  found:   {op: lookup, length: 3, ngram: 2}
  draft:   {op: join, parts: [seed, found]}
  checked: {op: forward, tokens: draft, attention: causal, cache: append}
  after:   {op: sample, logits: checked.last}
  emit:    {tokens: draft, cache: keep all, next: {seed: after}}
"""
    )
    assert diagnostic.code == "NLD122"
    assert "`found` -> `draft` -> `emit`" in diagnostic.labels[0].text


def test_what_a_lookup_found_may_be_emitted_where_accept_found_it_equal_to_a_sample() -> None:
    assert codes(
        """  found:   {op: lookup, length: 3, ngram: 2}
  draft:   {op: join, parts: [seed, found]}
  checked: {op: forward, tokens: draft, attention: bidirectional, predicts: next, cache: append}
  choice:  {op: sample, logits: checked}
  kept:    {op: accept, draft: draft, target: choice, rule: longest_prefix}
  emit:    {tokens: kept.drafted, cache: keep kept.rows, next: {seed: kept.bonus}}
"""
    ) == []  # fmt: skip


def test_a_carried_token_that_no_sample_chose_is_refused() -> None:
    assert codes(
        """  found:   {op: lookup, length: 1, ngram: 2}
  checked: {op: forward, tokens: seed, attention: causal, cache: append}
  emit:    {tokens: seed, cache: keep all, next: {seed: found}}
"""
    ) == ["NLD122"]  # fmt: skip


def test_masks_that_nobody_filled_are_refused() -> None:
    assert codes(
        """  block: {op: rows, segments: [{tokens: seed}, {masks: 3}]}
  seen:  {op: forward, tokens: block, attention: bidirectional, cache: append}
  after: {op: sample, logits: seen.last}
  emit:  {tokens: block, cache: keep all, next: {seed: after}}
"""
    ) == ["NLD122"]  # fmt: skip


def test_a_loop_whose_rounds_may_fill_nothing_is_refused() -> None:
    text = base_text("block_diffusion").replace(", always: best 1", "")
    assert [diagnostic.code for diagnostic in found_in(text)] == ["NLD118"]


def test_a_loop_with_too_few_rounds_is_refused() -> None:
    text = base_text("block_diffusion").replace("at_most: block_length", "at_most: 2")
    assert [diagnostic.code for diagnostic in found_in(text)] == ["NLD118"]


def test_a_loop_that_fills_two_rows_a_round_needs_half_the_rounds() -> None:
    text = base_text("block_diffusion").replace("at_most: block_length", "at_most: 2")
    assert found_in(text.replace("best 1", "best 2")) == []


def test_a_prompt_token_that_is_emitted_is_refused() -> None:
    text = PREFILL.replace(
        "carry:", "  emit: {tokens: again}\ncarry:"
    ).replace("  seed: ", '  again: {op: join, parts: ["$prompt[-1:]"]}\n  seed: ')  # fmt: skip
    step = """  checked: {op: forward, tokens: seed, attention: causal, cache: append}
  choice:  {op: sample, logits: checked}
  emit:    {tokens: choice, cache: keep all, next: {seed: choice}}
"""
    assert [diagnostic.code for diagnostic in found_in(text + step)] == ["NLD122"]
