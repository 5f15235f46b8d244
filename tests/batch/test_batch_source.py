"""Rows of a file: where they begin, and their bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nldc.batch import source
from nldc.batch.source import open_source, read_lines
from nldc.runtime.errors import PromptError


def rows(path: Path) -> list[bytes | None]:
    found = open_source(path)
    return [line for _, line in read_lines(path, enumerate(found.offsets))]


def test_empty_lines_are_no_rows_and_the_last_line_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\n"a"\r\n \t\r\n\n"b"')
    assert rows(path) == [b'"a"\r\n', b'"b"']


def test_rows_are_read_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"".join(b"%d\n" % number for number in range(9)))
    offsets = open_source(path).offsets
    found = list(read_lines(path, [(row, offsets[row]) for row in (7, 0, 1, 8, 3)]))
    assert found == [(row, b"%d\n" % row) for row in (7, 0, 1, 8, 3)]


@pytest.mark.parametrize("length", [9, 10, 11, 19, 20, 21, 40])
def test_a_line_that_is_too_long_is_a_row_without_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(source, "LONGEST", 10)
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"a\n" + b"x" * (length - 1) + b"\nb\n" + b" " * 25 + b"\nc")
    long = b"x" * (length - 1) + b"\n"
    assert rows(path) == [b"a\n", long if length <= 10 else None, b"b\n", b"c"]


def test_the_digest_is_that_of_the_whole_file(tmp_path: Path) -> None:
    digests = set()
    for text in (b"a\nb\n", b"a\nb", b"a\n\nb\n", b"a\nc\n"):
        path = tmp_path / "p.jsonl"
        path.write_bytes(text)
        digests.add(open_source(path).digest)
    assert len(digests) == 4


def test_a_file_without_rows_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"\n\n  \n")
    with pytest.raises(PromptError, match="has no rows"):
        open_source(tmp_path / "empty.jsonl")
    with pytest.raises(PromptError, match="cannot read"):
        open_source(tmp_path / "none.jsonl")


def test_a_pipe_is_refused_before_it_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(PromptError, match="is no plain file"):
        open_source(pipe)
