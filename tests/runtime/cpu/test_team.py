"""Torch's threads compute what they are given, each its part, and wait for one another."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from nldc.runtime.cpu import team as teams
from nldc.runtime.cpu.compiled import Entry, digest, entry
from nldc.runtime.cpu.memory import ask, put_word, wait, word
from nldc.runtime.cpu.team import Team, team


def _neighbours(source: str):  # type: ignore[no-untyped-def]
    def neighbours(table: int) -> None:
        """Write a number, wait, and write what the next thread wrote."""
        _ = source
        me, count = ask(word(table, 1)), ask(word(table, 2))
        put_word(table, 3 + me, 100 + me)
        wait(word(table, 0))
        put_word(table, 3 + count + me, word(table, 3 + (me + 1) % count))

    return neighbours


@pytest.fixture(scope="module")
def neighbours() -> Entry:
    return entry(_neighbours(digest()), 1)


@pytest.fixture(scope="module")
def found() -> Team:
    own = team()
    if own is None:
        pytest.skip("torch computes without an OpenMP that is known")
    return own


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_thread_of_a_team_computes_and_waits(
    found: Team, neighbours: Entry, threads: int
) -> None:
    table = np.zeros(3 + 2 * threads, np.int64)
    table[:3] = found.barrier, found.who, found.count
    for _ in range(50):
        table[3:] = 0
        found.run(neighbours.address, table.ctypes.data, threads)
        want = [100 + number for number in range(threads)]
        assert table[3:].tolist() == want + want[1:] + want[:1]


def test_teams_of_several_threads_do_not_meet(found: Team, neighbours: Entry) -> None:
    wrong = []

    def run() -> None:
        table = np.zeros(7, np.int64)
        table[:3] = found.barrier, found.who, found.count
        for _ in range(30):
            table[3:] = 0
            found.run(neighbours.address, table.ctypes.data, 2)
            if table[3:].tolist() != [100, 101, 101, 100]:
                wrong.append(table[3:].tolist())

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_where_torch_has_no_openmp_there_is_no_team(monkeypatch: pytest.MonkeyPatch) -> None:
    for place, value in (
        (torch.__config__, ("parallel_info", lambda: "native threads")),
        (teams, ("_names", lambda: ["/lib/no/libgomp.so"])),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, *value)
            teams.team.cache_clear()
            assert team() is None
    teams.team.cache_clear()
