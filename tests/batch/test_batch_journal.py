"""What a kill leaves behind, and how a run goes on from it."""

from __future__ import annotations

import fcntl
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nldc.batch.answer import Answer, read_answer
from nldc.batch.journal import Journal
from nldc.batch.output import write_output
from nldc.runtime.errors import PromptError

ASKED = {"prompts": {"rows": 4, "sha256": "a"}, "options": {"seed": 0, "stop": ["x"]}}
WRITE = partial(write_output, token_ids=False)


def answer(row: int) -> Answer:
    return Answer(row, f"id{row}", "tëxt\u2028\n" * row, row, "eos", 1, float(row))


def opened(out: Path, asked: dict[str, Any] = ASKED, **options: Any) -> Journal:
    return Journal(out, asked, 4, **options)


def part(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def test_answers_come_out_in_the_order_of_their_rows(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with opened(out) as journal:
        assert all(journal.add(answer(row)) for row in (2, 0, 3, 1))
        assert journal.left == 0
        journal.finish(WRITE)
    lines = out.read_bytes().splitlines(keepends=True)
    assert [read_answer(line) for line in lines] == [answer(row) for row in range(4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.run.json"]
    with opened(out) as journal:
        assert journal.is_finished
        assert list(journal.undone()) == []
    assert not part(out).exists()


def test_a_row_is_written_once(tmp_path: Path) -> None:
    with opened(tmp_path / "out.jsonl") as journal:
        assert journal.add(answer(1))
        assert not journal.add(answer(1))
        assert list(journal.undone()) == [0, 2, 3]
    assert part(tmp_path / "out.jsonl").read_bytes() == answer(1).line()


def test_a_run_goes_on_wherever_a_kill_cut_the_last_line(tmp_path: Path) -> None:
    whole = answer(2).line()
    for cut in range(len(whole)):
        out = tmp_path / f"{cut}.jsonl"
        with opened(out) as journal:
            journal.add(answer(0))
        with part(out).open("ab") as file:
            file.write(whole[:cut])
        with opened(out) as journal:
            assert list(journal.undone()) == [1, 2, 3]
            assert part(out).read_bytes() == answer(0).line()
            for row in journal.undone():
                journal.add(answer(row))
            journal.finish(WRITE)
        assert out.read_bytes() == b"".join(answer(row).line() for row in range(4))


@pytest.mark.parametrize(
    "harm",
    [
        b"\0" * 50 + b"\n",
        b"[]\n",
        b'{"row": 1}\n',
        b'{"row":9,"id":null}\n',
        b'{"row":-1,"id":null}\n',
        b'{"row":true,"id":null}\n',
        answer(0).line(),
    ],
)
def test_what_is_no_answer_is_cut_off_with_all_behind_it(tmp_path: Path, harm: bytes) -> None:
    out = tmp_path / "out.jsonl"
    with opened(out) as journal:
        journal.add(answer(0))
    with part(out).open("ab") as file:
        file.write(harm + answer(2).line())
    with opened(out) as journal:
        assert list(journal.undone()) == [1, 2, 3]
    assert part(out).read_bytes() == answer(0).line()


def test_a_kill_between_the_output_and_the_end_of_the_journal_costs_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with opened(out) as journal:
        for row in range(4):
            journal.add(answer(row))
        lines = part(out).read_bytes()
        journal.finish(WRITE)
    part(out).write_bytes(lines)
    with opened(out) as journal:
        assert journal.is_finished
    assert not part(out).exists()


def test_only_a_run_that_asks_the_same_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with opened(out) as journal:
        journal.add(answer(0))
    other = {"prompts": {"rows": 4, "sha256": "b"}, "options": {"seed": 1, "stop": ["x"]}}
    with pytest.raises(PromptError, match=r"another prompts\.sha256, seed"):
        opened(out, other)
    with opened(out) as journal:
        assert list(journal.undone()) == [1, 2, 3]
    with opened(out, other, overwrite=True) as journal:
        assert list(journal.undone()) == [0, 1, 2, 3]
    with pytest.raises(PromptError, match="was begun with another"):
        opened(out)


def test_a_file_that_is_no_batch_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("precious")
    with pytest.raises(PromptError, match="not from a batch"):
        opened(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert out.read_text() == "precious"
    with opened(out, overwrite=True) as journal:
        assert not journal.is_finished
    assert not out.exists()


def test_a_kill_before_the_first_answer_is_no_obstacle(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    part(out).touch()
    with opened(out) as journal:
        assert list(journal.undone()) == [0, 1, 2, 3]


def test_two_runs_cannot_write_one_file(tmp_path: Path) -> None:
    with opened(tmp_path / "out.jsonl") as journal:
        journal.add(answer(0))
        with pytest.raises(PromptError, match="another run is writing"):
            opened(tmp_path / "out.jsonl", overwrite=True)
    with opened(tmp_path / "out.jsonl") as journal:
        assert list(journal.undone()) == [1, 2, 3]


@pytest.mark.parametrize("begins_anew", [True, False])
def test_a_lock_on_a_file_that_is_gone_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins_anew: bool
) -> None:
    out = tmp_path / "out.jsonl"

    def late(file: Any, how: int) -> None:
        part(out).unlink()  # the run that held it ends
        if begins_anew:
            part(out).touch()
        flock(file, how)

    flock = fcntl.flock
    monkeypatch.setattr("fcntl.flock", late)
    with pytest.raises(PromptError, match="another run is writing"):
        opened(out, overwrite=True)
