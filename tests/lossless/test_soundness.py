"""Every random strategy that is accepted does as it promises: the test that nothing is unsound."""

from __future__ import annotations

import json
import os
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings

from nldc.check.lossless import prove
from nldc.diagnostics import StrategyError
from nldc.ir.build import build
from nldc.reuse import parse
from tests.lossless.at_random import ADVERSARIAL, HEAD, random_pick, strategy, strategy_files
from tests.lossless.hash_model import first_difference
from tests.lossless.names import WORDS, rename, taken
from tests.lossless.soundness import (
    Tally,
    attack,
    counterexample,
    examined,
    graph_of,
    kind_of,
    run,
)

QUICK = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
LONG = settings(
    max_examples=4000, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck)
)


def check(text: str) -> None:
    try:
        _, graph, code = examined(text)
    except StrategyError:
        return
    if graph is not None and code is None:
        assert counterexample(text, graph) is None


@QUICK
@given(strategy_files())
def test_what_is_accepted_does_as_it_promises(text: str) -> None:
    check(text)


@pytest.mark.long
@LONG
@given(strategy_files())
def test_what_is_accepted_does_as_it_promises_over_many_strategies(text: str) -> None:
    check(text)


def test_a_share_of_random_strategies_of_every_kind_is_accepted_and_none_differs() -> None:
    tally, found = run(250, seed=7)
    assert found is None
    assert tally.graphs.total() > 180
    assert 0.2 < tally.accepted.total() / tally.graphs.total() < 0.8
    kinds = {
        f"{promise} {names}" for promise in ("exact", "none") for names in ("plain", "adversarial")
    }
    assert {kind for kind, number in tally.accepted.items() if number > 8} == kinds


@pytest.mark.long
def test_no_counterexample_among_thousands() -> None:
    count = int(os.environ.get("NLDC_RANDOM_GRAPHS", "5000"))
    _, found = run(count, seed=10_000)
    assert found is None


def test_no_counterexample_in_the_time_that_there_is() -> None:
    """CI gives three minutes (see .ci/run): the same files in the same order, as far as it gets."""
    seconds = float(os.environ.get("NLDC_RANDOM_SECONDS", "5"))
    tally, found = run(10**9, seed=20_000_000, seconds=seconds)
    print(tally.line())
    assert found is None
    assert tally.accepted.total() > 5


def test_the_oracle_finds_what_a_blind_checker_would_let_through() -> None:
    """Of refused strategies almost all part from AR: the oracle is not blind either."""
    refused = differing = 0
    for seed in range(300, 420):
        text = strategy(random_pick(seed))
        graph = graph_of(text) if "guarantee: exact" in text else None
        if graph is None or prove(graph).proved == "exact":
            continue
        refused += 1
        try:
            differing += first_difference(graph, tries=16, tokens=12) is not None
        except (IndexError, ValueError):
            refused -= 1
    assert refused > 20
    assert differing > 0.8 * refused


# The attack itself is not blind


def attacked(text: str, old: str, new: str) -> str | None:
    """Attack the code of an edited file, which is to mean what the file as it was means."""
    assert text.count(old) == 1
    graph, wrong = build(parse(text)).graph, build(parse(text.replace(old, new))).graph
    assert graph is not None
    assert wrong is not None
    for seed in range(6):
        found = attack(text.replace(old, new), wrong, seed, meant=graph)
        if found is not None:
            return found
    return None


PLAIN_AR = (
    HEAD
    + """prefill:
  context: {op: forward, tokens: $prompt, attention: causal, cache: append}
  seed: {op: sample, logits: context.last}
  emit: {tokens: seed}
carry: {seed: prefill.seed}
step:
  checked: {op: forward, tokens: seed, attention: causal, cache: append}
  choice: {op: sample, logits: checked}
  emit: {tokens: choice, cache: keep all, next: {seed: choice}}
"""
)


@pytest.mark.parametrize("promise", ["exact", "none"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "tokens: seed, attention: causal",
            'tokens: seed, attention: "k.row == q.row", predicts: next',
        ),
        ("next: {seed: choice}", "next: {seed: seed}"),
        ("cache: append}\n  choice", "cache: read}\n  choice"),
        (
            "tokens: $prompt, attention: causal",
            'tokens: $prompt, attention: "k.row <= q.row and k.row > q.row - 30", predicts: next',
        ),
    ],
)
def test_wrong_code_is_found_out_whatever_is_promised(promise: str, old: str, new: str) -> None:
    text = PLAIN_AR.replace("guarantee: exact", f"guarantee: {promise}")
    assert attacked(text, "summary: Made", "summary: Maid") is None
    assert attacked(text, old, new) is not None


def test_a_name_that_is_bound_twice_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.lossless import soundness

    generated = soundness.emit_artifact

    def twice(*given: object) -> dict[str, bytes]:
        files = generated(*given)  # type: ignore[arg-type]
        return {**files, "decode.py": files["decode.py"] + b"\n\nBaseDecoder = 1\n"}

    monkeypatch.setattr(soundness, "emit_artifact", twice)
    graph = graph_of(PLAIN_AR)
    assert graph is not None
    assert "binds BaseDecoder twice" in str(attack(PLAIN_AR, graph, 1))


# Names


def test_half_of_the_files_have_names_that_meet_others() -> None:
    texts = [strategy(random_pick(seed)) for seed in range(200)]
    share = sum(ADVERSARIAL in text for text in texts) / len(texts)
    assert 0.4 < share < 0.6
    assert {kind_of(text) for text in texts} == {
        "exact plain", "exact adversarial", "none plain", "none adversarial",
    }  # fmt: skip


def test_names_are_taken_from_python_the_runtime_and_generated_code() -> None:
    assert {
        "lambda",
        "None",
        "range",
        "batch",
        "CAUSAL",
        "ops",
        "everyone",
        "STEP_BOTH_ROWS",
    } <= set(taken())


def test_a_renamed_file_means_the_same() -> None:
    """Names are replaced everywhere or nowhere: most renamed files are as well typed as before."""
    kept = total = 0
    for seed in range(240):
        text = strategy(random_pick(seed))
        if ADVERSARIAL in text or graph_of(text) is None:
            continue
        total += 1
        kept += graph_of(rename(text, seed)) is not None
    assert total > 60
    assert kept > 0.6 * total
    assert len(WORDS) > 50


def test_tallies_add_up() -> None:
    one, other = Tally(), Tally()
    one.files["exact plain"], other.files["exact plain"] = 3, 4
    one.slowest, other.slowest = [(2.0, 1)], [(3.0, 2)]
    one.add(other.data())
    assert one.files["exact plain"] == 7
    assert one.slowest == [(3.0, 2), (2.0, 1)]
    assert json.loads(one.data())["files"] == {"exact plain": 7}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_random_strategy_is_the_same_for_the_same_seed(seed: int) -> None:
    assert strategy(random_pick(seed)) == strategy(random_pick(seed))
    assert Random(seed).random() == Random(seed).random()
