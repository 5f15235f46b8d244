"""Captured work as a program: pieces in order, and rounds while somebody goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import pytest
import torch

from nldc.runtime.cache.kv_cache import Places
from nldc.runtime.graph.batch import FixedBatch
from nldc.runtime.graph.work import NOTHING, Rounds, Taking, replay
from nldc.runtime.step.places import behind_held


@dataclass
class Piece:
    """A piece that tells when it is replayed."""

    does: Callable[[], object]

    def replay(self) -> None:
        self.does()


@pytest.mark.parametrize(
    ("least", "ends_after", "rounds"),
    [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1), (1, 3, 3), (0, 9, 5), (2, 1, 2)],
)
def test_a_loop_has_as_many_rounds_as_somebody_needs_and_none_more(
    least: int, ends_after: int, rounds: int
) -> None:
    active, done = torch.tensor([False, ends_after > 0]), list[int]()

    def one_round() -> None:
        done.append(len(done))
        active[1] = len(done) < ends_after

    loop = Rounds(active, 5, least, ((Piece(one_round),),))
    replay((Piece(lambda: done.clear()), loop, Piece(lambda: done.append(-1))))
    assert done == [*range(rounds), -1]


def test_rounds_that_are_each_other_work_follow_one_another() -> None:
    active, done = torch.tensor([True]), list[int]()
    each = tuple((Piece(lambda n=number: done.append(n)),) for number in range(3))  # type: ignore[misc]
    replay((Rounds(active, 3, 1, each),))
    assert done == [0, 1, 2]


def test_work_is_taken_in_pieces_and_loops_within_loops() -> None:
    cuts = list[Piece]()

    def cut() -> Piece:
        cuts.append(Piece(lambda: None))
        return cuts[-1]

    taking, outer, inner = Taking(cut), list[tuple[object, ...]](), list[tuple[object, ...]]()
    active = torch.tensor([True])
    taking.piece()
    with taking.round(outer):
        taking.piece()
        with taking.round(inner):
            pass
        taking.add(Rounds(active, 2, 1, tuple(inner)))
    taking.add(Rounds(active, 4, 0, tuple(outer)))
    last = Piece(lambda: None)
    first, loop, end = taking.whole(last)
    assert (first, end) == (cuts[0], last)
    assert isinstance(loop, Rounds)
    ((before, within, after),) = loop.each
    assert isinstance(within, Rounds)
    assert (before, within.each, after) == (cuts[1], ((cuts[2],),), cuts[3])


def test_work_that_is_not_captured_leaves_nothing() -> None:
    taking = Taking(lambda: NOTHING)
    taking.piece()
    assert taking.whole(NOTHING) == (NOTHING, NOTHING)
    replay(taking.whole(NOTHING))


def test_a_captured_step_has_room_for_rows_behind_those_that_are_held() -> None:
    batch = FixedBatch.__new__(FixedBatch)
    start = torch.tensor([7, 9])
    places = Places((0, 1), (7, 9), torch.arange(2), start)
    for flags in product((True, False), repeat=2):
        active = torch.tensor(flags)
        found = behind_held(places, 5, active, batch.who(active))
        for bound, begin in zip(found.lengths, found.start.tolist(), strict=True):
            assert bound >= begin
