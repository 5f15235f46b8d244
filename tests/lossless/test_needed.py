"""Which rows a proof rests on: what its certificate names, row by row, and in how many outcomes."""

from __future__ import annotations

import pytest

from nldc import api
from nldc.check.lossless.needed import Need, needed_rows


@pytest.mark.parametrize("name", ["linear_ss", "quadratic_ss", "tidar", "linear_ss_tree", "jacobi"])
def test_rows_of_steps_are_those_of_the_certificate(name: str) -> None:
    proof = api.check(name, others=False).proof
    found = needed_rows(proof.solution, 3)
    (visible,) = (g for g in proof.certificate.grounds if g.obligation == "visibility")
    steps = {node: rows for node, rows in visible.rows.items() if node.startswith("step.")}
    assert {n: tuple(rows) for n, rows in found.items() if n.startswith("step.")} == steps


def test_a_row_is_needed_in_the_outcomes_that_reach_it() -> None:
    solution = api.check("linear_ss", {"block_length": 4}, others=False).proof.solution
    assert needed_rows(solution, 2)["step.checked"] == {
        row: Need((row,), True, 4 - row, 4) for row in range(4)
    }
    assert sorted(needed_rows(solution, 2)["prefill.context"]) == [0, 1]


def test_where_nothing_is_proved_no_row_is_needed() -> None:
    assert needed_rows(api.check("block_diffusion", others=False).proof.solution, 3) == {}
