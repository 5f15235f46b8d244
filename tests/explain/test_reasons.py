"""The promise in plain words, with what it rests on, or what speaks against it."""

from __future__ import annotations

from nldc import api
from nldc.explain.reasons import promise_of, proved_for
from tests.explain.told import told


def test_an_exact_strategy_has_a_reason_for_every_obligation() -> None:
    promise = promise_of(api.check("quadratic_ss", {"block_length": 3}, others=False))
    assert promise.text == "exact: every token that comes out is the one that AR would have chosen"
    assert [reason.name for reason in promise.reasons] == [
        "source", "visibility", "purity", "cache", "seed", "progress", "constraints",
    ]  # fmt: skip
    source = promise.reasons[0]
    assert source.rests == ("both: rows 0, 4", "kept")
    assert source.formal == "every emitted token equals the choice of one of these rows"
    assert promise.reasons[1].rests == (
        "prefill.first, at every length of the prompt",
        "both: rows 0, 4, 8",
    )


def test_an_inexact_strategy_says_why_and_where() -> None:
    promise = told("block_diffusion").promise
    assert not promise.exact
    (reason,) = promise.reasons
    assert reason.name == "NLD101"
    assert "`filled` is a guess that no verifier row confirmed" in reason.text
    assert reason.rests == ("step.filled",)
    assert "kept.tokens" in reason.formal


def test_of_several_steps_each_row_is_named_with_its_step() -> None:
    promise = told("concurrency_router").promise
    assert "single.context: row 0" in promise.reasons[0].rests


def test_a_proof_names_the_params_that_it_is_for() -> None:
    linear = api.check("linear_ss", {"block_length": 4}, others=False)
    assert proved_for(linear.certificate) == (
        "proved for block_length = 4, in all of its 4 outcomes"
    )
    ar = api.check("ar", others=False)
    assert proved_for(ar.certificate) == "proved as it is, in its one outcome"
