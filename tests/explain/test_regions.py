"""The graph as boxes: every node once, every value's way, and no more than can be drawn."""

from __future__ import annotations

import pytest

from nldc import api
from nldc.explain import regions
from nldc.explain.build import explained
from nldc.explain.model import Region
from nldc.explain.paint import Pen
from nldc.explain.print_boxes import print_boxes
from nldc.ir.graph import uses
from nldc.ir.ops import Repeat
from tests.explain.told import told

PLAIN = Pen(colored=False)


def region(strategy: str, name: str) -> Region:
    (found,) = (each for each in told(strategy).regions if each.name == name)
    return found


@pytest.mark.parametrize("name", ["linear_ss_tree", "lookahead", "slow_fast", "wino"])
def test_every_node_is_a_box_and_every_use_an_edge(name: str) -> None:
    graph, found = api.check(name, others=False).graph, told(name)
    boxes = [box.name for each in found.regions for box in each.boxes]
    edges = {(edge.source, edge.target) for each in found.regions for edge in each.edges}
    for node in graph.nodes:
        assert boxes.count(node.name) == 1
        if not isinstance(node.op, Repeat):
            assert {(use.node, node.name) for use in uses(node.op)} <= edges


def test_edges_go_from_what_runs_first_to_what_runs_later() -> None:
    for name in ("linear_ss", "wino", "lookahead"):
        for each in told(name).regions:
            order = [box.name for box in each.boxes]
            assert len(order) == len(set(order))
            assert all(order.index(e.source) < order.index(e.target) for e in each.edges)


def test_what_comes_in_and_goes_out_has_boxes_of_its_own() -> None:
    found = {box.title: box.detail for box in region("quadratic_ss", "step").boxes}
    assert found["emit"] == "kept.drafted, keep kept.rows"
    assert found["next draft"] == "next_draft"
    assert found["draft"] == "carried"
    assert found["groups"] == "rows: 8 x 1 token, 8 masks"


def test_steps_say_when_they_are_taken_and_loops_how_often() -> None:
    titles = [each.title for each in told("concurrency_router").regions]
    assert titles[1] == "single: taken while live > 4"
    assert titles[2] == "speculative: taken otherwise"
    assert "step.filled: each of at most 16 rounds" in [
        each.title for each in told("block_diffusion").regions
    ]
    assert region("linear_ss", "step.drafted").plain
    assert not region("block_diffusion", "step.filled").plain


def test_of_many_boxes_the_first_are_drawn_and_the_rest_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(regions, "MOST_BOXES", 6)
    step = explained(api.check("lookahead", others=False)).regions[1]
    assert len(step.boxes) == 6
    assert step.left == len(region("lookahead", "step").boxes) - 6
    names = {box.name for box in step.boxes}
    assert all({edge.source, edge.target} <= names for edge in step.edges)
    assert f"... and {step.left} more, which are not drawn" in list(print_boxes(step, 80, PLAIN))
