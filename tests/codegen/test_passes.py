"""Each pass changes the graph's text as its golden file says, and only where it applies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nldc import api
from nldc.codegen.pipeline import PASSES, run
from nldc.ir.text import show_graph
from nldc.reuse import parse

if TYPE_CHECKING:
    from conftest import Golden

GOLDEN = Path(__file__).parent.parent / "golden" / "passes"


@pytest.mark.parametrize("change", PASSES, ids=lambda change: change.__name__)
def test_a_pass_leaves_ar_as_it_is(change: object) -> None:
    graph = api.check("ar").graph
    assert callable(change)
    assert show_graph(change(graph)) == show_graph(graph)


def test_the_passes_turn_a_one_round_draft_into_a_forward_and_a_fill(golden: Golden) -> None:
    seen = [f"== as written\n{show_graph(api.check('linear_ss').graph)}"]
    run(api.check("linear_ss").graph, lambda name, g: seen.append(f"== {name}\n{show_graph(g)}"))
    golden(GOLDEN / "linear_ss.txt", "\n".join(seen))


def test_a_draft_with_a_threshold_stays_a_loop_whatever_its_default_is() -> None:
    for default in (0.5, 0.0):  # a request may bring another value than 0
        graph = run(api.check("linear_ss_iterative", {"threshold": default}).graph)
        assert "step.drafted: Rows[16] = repeat" in show_graph(graph)
    assert "repeat" not in show_graph(run(api.check("linear_ss").graph))


def test_what_nobody_uses_is_dropped_and_an_appending_forward_is_kept() -> None:
    text = Path(api.library()["ar"]).read_text(encoding="utf-8")
    wasteful = text.replace(
        "  choice:",
        "  idle: {op: forward, tokens: seed, attention: bidirectional, cache: read}\n  choice:",
    )
    checked = api.check_source(parse(wasteful, "wasteful.yaml"))
    assert [d.code for d in checked.warnings] == ["NLD033"]
    lowered = show_graph(run(checked.graph))
    assert "step.idle" not in lowered
    assert "step.context" in lowered
