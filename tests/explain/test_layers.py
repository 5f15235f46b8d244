"""Boxes lie in ranks that fit, none on another, with a way for every edge."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nldc.explain.layers import Layers, placed

GAP, LANE, ROOM = 2.0, 3.0, 60.0


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, float], list[tuple[str, str]]]:
    count = draw(st.integers(1, 12))
    widths = {f"n{at}": float(draw(st.integers(9, 30))) for at in range(count)}
    pairs = [(a, b) for b in range(count) for a in range(b)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return widths, [(f"n{a}", f"n{b}") for a, b in chosen]


def reached(layers: Layers, name: str) -> set[str]:
    """The boxes that the nets lead to from one."""
    ((rank, at),) = (
        (rank, at)
        for rank, spots in enumerate(layers.ranks)
        for at, spot in enumerate(spots)
        if spot.name == name and not spot.lane
    )
    found, open_ = set(), [(rank, at)]
    while open_:
        rank, at = open_.pop()
        if rank == len(layers.nets):
            continue
        for net in layers.nets[rank]:
            if net.source == at:
                for target in net.targets:
                    spot = layers.ranks[rank + 1][target]
                    if spot.lane:
                        open_.append((rank + 1, target))
                    else:
                        found.add(spot.name)
    return found


@given(graphs())
def test_every_edge_has_its_way_and_no_other(
    graph: tuple[dict[str, float], list[tuple[str, str]]],
) -> None:
    widths, edges = graph
    layers = placed(widths, edges, room=ROOM, gap=GAP, lane=LANE)
    drawn = [spot.name for rank in layers.ranks for spot in rank if not spot.lane]
    assert sorted(drawn) == sorted(widths)
    for name in widths:
        assert reached(layers, name) == {b for a, b in edges if a == name}


@given(graphs())
def test_no_spot_lies_on_another_where_the_rank_has_room(
    graph: tuple[dict[str, float], list[tuple[str, str]]],
) -> None:
    layers = placed(*graph, room=ROOM, gap=GAP, lane=LANE)
    for rank in layers.ranks:
        needed = sum(spot.width for spot in rank) + GAP * (len(rank) - 1)
        if needed <= ROOM:
            assert all(one.x + one.width <= other.x for one, other in pairwise(rank))
            assert all(spot.x >= 0 for spot in rank)


def test_edges_that_lead_back_are_left_out() -> None:
    layers = placed({"a": 9, "b": 9}, [("b", "a"), ("a", "a")], room=60, gap=2, lane=3)
    assert not any(layers.nets)


def test_nothing_takes_no_room() -> None:
    assert placed({}, [], room=60, gap=2, lane=3).width == 0
