"""What strategies do with a prompt: right files once refused, and wrong ones once let pass."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nldc import api
from nldc.check.lossless import prove
from nldc.check.rules import check_graph
from nldc.diagnostics import StrategyError
from tests.lossless.hash_model import first_difference
from tests.lossless.mutants import built

HERE = Path(__file__).parent / "strategies"
CHECKPOINT = HERE.parents[1] / "golden_checkpoints" / "random-1"


def text_of(name: str) -> str:
    return (HERE / f"{name}.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    "name",
    [
        "prompt_all_but_the_last",
        "three_tokens_behind",
        "r_prefill_difference_of_rows",
        "slow_to_check",
    ],
)
def test_what_is_right_is_proved_and_equals_ar(name: str) -> None:
    _, graph = built(text_of(name))
    assert prove(graph).proved == "exact"
    assert first_difference(graph, 12, lengths=(1, 2, 3, 70)) is None


def test_a_second_look_at_the_prompt_through_a_window_is_refused_where_it_is_written() -> None:
    _, graph = built(text_of("last_row_by_itself"))
    (problem,) = prove(graph).problems
    assert (problem.code, problem.node, problem.key) == ("NLD106", "prefill.again", "attention")
    assert "in a prompt of 21 tokens" in problem.text
    assert first_difference(graph, 6, lengths=(1, 2, 3, 10)) is None
    assert first_difference(graph, 40, lengths=(40,)) is not None


def test_the_cache_of_a_prompt_of_one_token_may_begin_empty(tmp_path: Path) -> None:
    prompts = [[5], [5, 9], [1, 38, 26], [7] * 9]
    decoders = [
        api.load(api.compile(file, tmp_path / str(number))).from_checkpoint(
            CHECKPOINT, dtype="float64", device="cpu"
        )
        for number, file in enumerate(["ar", HERE / "prompt_all_but_the_last.yaml"])
    ]
    for options in ({}, {"temperature": 0.9, "seed": 3}):
        wanted, found = (
            decoder.generate(prompts, max_new_tokens=20, eos=(), **options) for decoder in decoders
        )
        assert found.tokens == wanted.tokens


def test_a_window_of_thousands_is_named_and_not_called_arithmetic() -> None:
    with pytest.raises(StrategyError) as caught:
        api.check(HERE / "w18_window_of_4096_in_the_prefill.yaml")
    (found,) = caught.value.diagnostics
    assert found.code == "NLD106"
    assert found.span is not None
    assert found.span.start_line == 9
    assert found.labels[0].text == (
        "in a prompt of 4097 tokens row 4096 does not see the token at offset 0"
    )


def test_a_strategy_that_carries_a_lookup_in_another_step_is_refused() -> None:
    """The step that emits the carried token carries a sampled one itself."""
    text = """nldc: 1
name: x
summary: x
guarantee: none
prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed:    {op: sample, logits: context.last}
carry: {seed: prefill.seed}
route: {finding: live > 2}
steps:
  finding:
    context: {op: forward, tokens: seed, attention: causal, cache: append}
    choice:  {op: sample, logits: context}
    found:   {op: lookup, length: 1, ngram: 1}
    emit:    {tokens: choice, cache: keep all, next: {seed: found}}
  emitting:
    context: {op: forward, tokens: seed, attention: causal, cache: append}
    choice:  {op: sample, logits: context}
    emit:    {tokens: seed, cache: keep all, next: {seed: choice}}
"""
    source, graph = built(text)
    found = [d for d in check_graph(graph, source) if d.severity == "error"]
    assert [d.code for d in found] == ["NLD122"]
    assert "`found` -> `seed` -> `emit`" in found[0].labels[0].text
    source, graph = built(text.replace("{seed: found}", "{seed: choice}"))
    assert not [d for d in check_graph(graph, source) if d.severity == "error"]


TWO_ACCEPTS = """nldc: 1
name: x
summary: x
guarantee: exact
prefill:
  context: {{op: forward, tokens: $prompt, attention: causal, cache: append}}
  seed:    {{op: sample, logits: context.last}}
  emit:    {{tokens: seed}}
carry: {{seed: prefill.seed}}
step:
  found:   {{op: lookup, length: {length}, ngram: 3}}
  draft:   {{op: join, parts: [seed, found]}}
  other:   {{op: lookup, length: {length}, ngram: 2}}
  drafts:  {{op: join, parts: [seed, other]}}
  seen:    {{op: forward, tokens: drafts, attention: causal, cache: read}}
  checked: {{op: forward, tokens: draft, attention: causal, cache: append}}
  choice:  {{op: sample, logits: checked}}
  targets: {{op: sample, logits: seen}}
  half:    {{op: accept, draft: drafts, target: targets, rule: longest_prefix}}
  kept:    {{op: accept, draft: draft, target: choice, rule: longest_prefix}}
  emit:    {{tokens: kept.tokens, cache: keep kept.rows, next: {{seed: kept.bonus}}}}
"""


@pytest.mark.parametrize(
    ("length", "why"),
    [
        (20, None),
        (55, "the rows and comparisons of its outcomes come to more than"),
        (65, "its rows in all outcomes of its accepts come to"),
        (99, "there are more than 5000 outcomes"),
    ],
)
def test_how_much_a_proof_may_follow_up_is_counted_and_said(length: int, why: str | None) -> None:
    _, graph = built(TWO_ACCEPTS.format(length=length))
    start = time.process_time()
    certificate = prove(graph)
    assert time.process_time() - start < 20
    if why is None:
        assert certificate.proved == "exact"
        return
    (problem,) = certificate.problems
    assert problem.code == "NLD121"
    assert problem.text.startswith(why)
    assert "`accept`s" in (problem.help or "")
