"""What is wrong is refused with its own code, and is really wrong: run unchecked, it is not AR."""

from __future__ import annotations

import pytest

from nldc.check.lossless import prove
from nldc.check.lossless.codes import KINDS
from nldc.check.lossless.rule import lossless
from tests.lossless.hash_model import first_difference
from tests.lossless.mutants import Mutant, base_text, built, mutants

MUTANTS = mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_refused_with_its_own_code(mutant: Mutant) -> None:
    source, graph = built(mutant.text())
    problems = prove(graph).problems
    assert problems, "certified"
    assert problems[0].code == mutant.code, problems
    found = list(lossless(graph, source, prove(graph)))
    assert {diagnostic.code for diagnostic in found} >= {mutant.code}
    for diagnostic in found:
        assert diagnostic.span is not None
        assert diagnostic.help


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_differs_from_ar_when_it_is_run_unchecked(mutant: Mutant) -> None:
    _, graph = built(mutant.text())
    assert first_difference(graph, 40, lengths=mutant.prompts, live=mutant.live) is not None


@pytest.mark.parametrize("base", sorted({mutant.base for mutant in MUTANTS}))
def test_the_strategies_that_mutants_are_made_of_are_right(base: str) -> None:
    _, graph = built(base_text(base), {"ar_weight": 1} if "ensemble" in base else None)
    assert prove(graph).proved == "exact"


def test_there_are_enough_mutants_and_no_two_are_the_same() -> None:
    assert len(MUTANTS) >= 40
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert len({mutant.text() for mutant in MUTANTS}) == len(MUTANTS)


def test_every_kind_of_failure_of_the_proof_has_a_mutant() -> None:
    elsewhere = {
        "NLD115",  # the order of the cache is refused by the runtime; the tokens would be AR's
        "NLD118", "NLD122",  # of strategies that promise nothing
        "NLD120", "NLD121",  # of what cannot be decided
    }  # fmt: skip
    assert {mutant.code for mutant in MUTANTS} == set(KINDS) - elsewhere
