"""Loops and mixes that emitted masks, tokens that were not sampled, or others than AR's."""

from __future__ import annotations

from pathlib import Path

import pytest

from nldc.check.lossless import prove
from nldc.check.rules import check_graph
from nldc.ir.build import build
from nldc.ir.graph import Graph
from nldc.reuse import load
from nldc.source import Source
from tests.lossless.hash_model import first_difference
from tests.lossless.loops_at_random import emits_unchosen

HERE = Path(__file__).parent / "strategies"
SMALL = {"block_length": 4, "rounds": 3, "length": 3, "sure": 0.7}

REFUSED = {
    "copies_stall_a_loop_none": "NLD118",
    "fill_of_other_rows_none": "NLD118",
    "junk_eos_emits_masks_none": "NLD118",
    "junk_masked_row_none": "NLD118",
    "loop_stalls_none": "NLD118",
    "masks_of_other_rows": "NLD122",
}
TAKEN = ("a_remask_low_confidence", "nested_repeat")
EXACT = (
    "b_jacobi",
    "d_tree_two_candidates",
    "iteration_after_unroll",
    "mix_weight_zero_first_other_positions",
    "r_mixed_with_itself",
)


def loaded(name: str) -> tuple[Source, Graph]:
    source = load(HERE / f"{name}.yaml")
    declared = source.data.get("params") or {}
    graph = build(source, {key: SMALL[key] for key in declared if key in SMALL}).graph
    assert graph is not None
    return source, graph


@pytest.mark.parametrize("name", REFUSED)
def test_a_loop_that_emits_what_no_sample_chose_is_refused(name: str) -> None:
    source, graph = loaded(name)
    (found,) = check_graph(graph, source)
    assert (found.code, found.severity) == (REFUSED[name], "error")
    assert found.help


@pytest.mark.parametrize("name", REFUSED)
def test_and_does_emit_it(name: str) -> None:
    _, graph = loaded(name)
    assert emits_unchosen(graph, 300, seed=0) is not None


@pytest.mark.parametrize("name", TAKEN)
def test_a_published_sampler_is_taken_and_emits_sampled_tokens_only(name: str) -> None:
    source, graph = loaded(name)
    assert check_graph(graph, source) == []
    assert emits_unchosen(graph, 60, seed=0) is None


@pytest.mark.parametrize("name", EXACT)
def test_what_is_exact_is_proved_and_equals_ar_greedy_and_sampled(name: str) -> None:
    source, graph = loaded(name)
    assert check_graph(graph, source) == []
    assert prove(graph).proved == "exact"
    assert first_difference(graph, tries=12) is None
