"""Traps of the loops that are in use, by name."""

from __future__ import annotations

import pytest

from nldc.check.lossless import prove
from nldc.check.lossless.cache_order import cache_order
from nldc.interpret import run
from tests.lossless.hash_model import HashModel, first_difference
from tests.lossless.mutants import base_text, built

EXACT = ("linear_ss", "linear_ss_iterative", "quadratic_ss", "tidar", "prompt_lookup")


@pytest.mark.parametrize("strategy", EXACT)
def test_the_mask_id_emitted_by_ar_is_a_token_like_others(strategy: str) -> None:
    """The released loops take such a token for a masked row and overwrite it."""
    _, graph = built(
        base_text(strategy),
        {"block_length": 3} if "lookup" not in strategy and strategy != "tidar" else None,
    )
    emitted = 0
    for seed in range(6):
        model = HashModel((1, 2), seed=seed, vocabulary=4, mask_token_id=3)
        expected = tuple(model.token(2 + place) for place in range(14))
        emitted += expected.count(3)
        assert run(graph, model, (1, 2), 14).tokens == expected
    assert emitted > 10


def test_an_adapter_that_is_optional_is_taken_for_present() -> None:
    """A drafter left on while verifying does no harm where it is missing, which is how it stays."""
    text = base_text("linear_ss_lora").replace(
        "cache: append}\n  choice", "cache: append, adapter: drafter}\n  choice"
    )
    _, graph = built(text)
    assert [problem.code for problem in prove(graph).problems] == ["NLD109"]


def test_a_window_that_covers_every_small_prompt_is_not_taken_for_the_whole_prefix() -> None:
    window = 'attention: "k.row <= q.row and k.position > q.position - 1000000", predicts: next'
    text = base_text("ar").replace("tokens: seed, attention: causal", f"tokens: seed, {window}")
    _, graph = built(text)
    assert [problem.code for problem in prove(graph).problems] == ["NLD106"]


def test_a_prompt_row_that_is_left_out_only_in_long_prompts_is_found() -> None:
    attention = 'attention: "k.row <= q.row and k.row != 17", predicts: next'
    text = base_text("ar").replace(
        "tokens: $prompt, attention: causal", f"tokens: $prompt, {attention}"
    )
    _, graph = built(text)
    assert {problem.code for problem in prove(graph).problems} <= {"NLD106", "NLD121"}
    assert prove(graph).proved == "none"


def test_what_is_sampled_inside_the_prompt_is_not_the_prompt() -> None:
    """A counterexample to an early checker: AR has a next token there, and did not choose it."""
    text = base_text("ar").replace(
        "  context: {op: forward, tokens: $prompt, attention: causal, cache: append}\n",
        """  first:   {op: forward, tokens: $prompt, attention: causal, cache: read}
  chosen:  {op: sample, logits: first}
  again:   {op: join, parts: ["$prompt[0]", "chosen[:-1]"]}
  context: {op: forward, tokens: again, attention: causal, cache: append}
""",
    )
    _, graph = built(text)
    assert first_difference(graph) is not None
    assert [problem.code for problem in prove(graph).problems] == ["NLD101"]


def test_a_row_out_of_order_that_every_outcome_forgets_is_refused_all_the_same() -> None:
    """What was certified did not load: the cache takes an appended row's place for its position."""
    text = base_text("linear_ss").replace(
        "checked: {op: forward, tokens: drafted, attention: causal, cache: append}",
        "checked: {op: forward, tokens: drafted, attention: causal, cache: append, position: 0}",
    )
    text = text.replace("draft: drafted, target", 'draft: "drafted[:1]", target')
    source, graph = built(text, {"block_length": 2})
    assert prove(graph).proved == "exact"
    assert [found.code for found in cache_order(graph, source, prove(graph))] == ["NLD115"]
