"""Damaged files; a failure prints the seed and number that make it again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from . import run
from .edits import edit_bytes, edit_json
from .readers import READERS
from .run import Tally, at_length, reader_of, try_one


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.long)])
def test_damaged_files_are_accepted_or_refused_in_words_that_name_them(count: int) -> None:
    seed = int(os.environ.get("NLDC_FUZZ_SEED", "0"))
    tally = at_length(seed, 0, count, 1)
    assert not tally.failures, "python -m tests.fuzz " + "\n".join(tally.failures)
    assert sum(tally.tried.values()) == count
    assert len(tally.tried) >= len(READERS) - 2


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_every_reader_takes_some_of_its_files_and_refuses_others(
    reader: object, tmp_path: Path
) -> None:
    tally = Tally()
    own = [each for each in READERS if each is reader]
    for number in range(400):
        folder = tmp_path / str(number)
        folder.mkdir()
        draw = Random(number)
        own[0].write(draw, folder)
        try:
            own[0].read(folder)
        except Exception:
            tally.refused["it"] += 1
        else:
            tally.accepted["it"] += 1
        if min(tally.refused["it"], tally.accepted["it"]) > 0:
            return
    pytest.fail(f"{tally.accepted['it']} accepted, {tally.refused['it']} refused")


def test_an_input_is_made_of_its_seed_and_number_alone(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        try_one(5, 77, folder, Tally())
        made.append({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    assert made[0] == made[1]


def test_edits_change_what_they_are_given() -> None:
    data = {"a": [1, 2, {"b": "text"}], "c": 1.5}
    texts = {edit_json(Random(seed), data) for seed in range(300)}
    assert len(texts) > 200
    assert len({edit_bytes(Random(seed), b"some bytes") for seed in range(300)}) > 100


def test_a_reader_that_breaks_is_a_failure_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(_folder: Path) -> None:
        raise KeyError("x")

    for reader in READERS:
        monkeypatch.setitem(vars(reader), "read", crash)
    tally = Tally()
    try_one(0, 3, tmp_path, tally)
    (failure,) = tally.failures
    assert failure.startswith("--seed 0 --only 3: ")
    assert "KeyError instead of an error of ours" in failure


def _computes_for_ever(_folder: Path) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGPROF, signal.SIGALRM))
    while True:
        pass


def _takes_all_memory(_folder: Path) -> None:
    bytearray(1 << 40)


def _ends(_folder: Path) -> None:
    os._exit(3)


@pytest.mark.parametrize(
    ("read", "what"),
    [(_computes_for_ever, "hangs"), (_takes_all_memory, "MemoryError"), (_ends, "(3)")],
)
def test_an_input_that_hangs_or_takes_all_memory_costs_its_process_alone(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], None], what: str
) -> None:
    # A fork takes the changed reader along; the next input of the same reader fails as well.
    monkeypatch.setattr(run, "START", "fork")
    monkeypatch.setattr(run, "SECONDS", 0.3)
    bad = next(each for each in READERS if each is reader_of(Random("0:5")))
    monkeypatch.setitem(vars(bad), "read", read)
    tally = at_length(0, 4, 3, 1)
    (failure,) = [each for each in tally.failures if "--only 5:" in each]
    assert what in failure
    assert sum(tally.tried.values()) == 3
