"""What a run has answered so far, kept so that a kill at any time costs only what was under way.

A run that writes OUT keeps two files beside it. `OUT.run.json` says what was asked (the prompts,
the artifact, the model, the options), is written before the first answer and stays: another run
may go on only if it asks the same. `OUT.part` gets a line for each answer, as they come. OUT itself
is made of that at the end, in the order of the prompts, beside its place and moved there at once.

Lines are appended and never changed, so a kill can harm the end of OUT.part only: from the first
line that is torn on it is cut, and those rows are answered again. No database, and no part files
to be merged: which rows are done is in the one file that holds them, so the two cannot disagree.
A lock on OUT.part, which goes with the process, keeps a second run out.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nldc.batch.answer import Answer, read_answer
from nldc.runtime.errors import PromptError
from nldc.runtime.files import write_whole
from nldc.runtime.json_file import read_json

SAVE_EVERY = 2.0
"""Seconds between two times that the disk is told to keep what was written."""
_UNDONE = -1


def files_of(out: Path) -> tuple[Path, Path, Path]:
    """Return the files of a run that writes `out`: itself, its answers so far, what was asked."""
    return out, out.with_name(f"{out.name}.part"), out.with_name(f"{out.name}.run.json")


class Journal:
    """The answers of `rows` rows on their way to the file `out`; `asked` is what makes them.

    Where `out` is there already, `is_finished`. Use it as a context.

    Raises:
        PromptError: another run writes the same file, or it holds what was asked otherwise and
            there is no leave to `overwrite` it.
        OSError: something cannot be written.
    """

    def __init__(
        self, out: Path, asked: Mapping[str, Any], rows: int, *, overwrite: bool = False
    ) -> None:
        self._out, self._part, self._record = files_of(out)
        self._places = array("q", [_UNDONE]) * rows
        self._left = rows
        self._saved = time.monotonic()
        self._file = open(self._part, "a+b")  # noqa: SIM115 (the journal's own context closes it)
        try:
            self._lock()
            self._agree(asked, overwrite=overwrite)
            self.is_finished = self._out.exists()
            if self.is_finished:
                self._part.unlink(missing_ok=True)
                self._left = 0
            else:
                self._go_on()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def left(self) -> int:
        """How many rows have no answer yet."""
        return self._left

    def undone(self) -> Iterator[int]:
        """Yield the rows that have no answer yet, in order."""
        if self._left:
            yield from (row for row, place in enumerate(self._places) if place == _UNDONE)

    def add(self, answer: Answer) -> bool:
        """Write an answer, unless its row has one; return whether it was written."""
        if self._places[answer.row] != _UNDONE:
            return False
        place = self._file.tell()
        self._file.write(answer.line())
        self._file.flush()
        self._note(answer.row, place)
        if time.monotonic() - self._saved > SAVE_EVERY:
            self._save()
        return True

    def finish(self, write: Callable[[Path, Iterator[Answer]], object]) -> None:
        """Let `write` make the output of all answers, in the order of their rows."""
        if self._left:
            raise AssertionError("an output is made when all rows have an answer")
        self._save()

        def make(path: Path) -> None:
            write(path, self._in_order())
            with open(path, "rb") as file:
                os.fsync(file.fileno())

        write_whole(self._out, make)
        self._part.unlink()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # a run that ended since this one opened the file has removed it: the lock is on nothing
            is_it = os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._part))
        except (BlockingIOError, FileNotFoundError):
            is_it = False
        if not is_it:
            raise PromptError(
                f"another run is writing {self._out}", "wait for its end, or write another file"
            )

    def _agree(self, asked: Mapping[str, Any], *, overwrite: bool) -> None:
        """See that what is there was asked in the same way; if nothing is, write what is asked."""
        try:
            known = read_json(self._record)
        except (FileNotFoundError, ValueError):
            known = None
        if known == asked and not overwrite:
            return
        is_empty = self._part.stat().st_size == 0
        is_there = known is not None or self._out.exists() or not is_empty
        if is_there and not overwrite:
            if is_empty:
                self._part.unlink()
            raise _unlike(self._out, known, asked)
        self._out.unlink(missing_ok=True)
        self._file.truncate(0)
        text = json.dumps(asked, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        write_whole(self._record, lambda path: path.write_text(text, encoding="utf-8"))

    def _go_on(self) -> None:
        """Read which rows are done, and cut off what a kill left of a line."""
        self._file.seek(0)
        end = 0
        for line in self._file:
            try:
                row = read_answer(line).row
                if not 0 <= row < len(self._places) or self._places[row] != _UNDONE:
                    break
            except (ValueError, TypeError, RecursionError):
                break
            self._note(row, end)
            end += len(line)
        self._file.truncate(end)
        self._file.seek(end)

    def _note(self, row: int, place: int) -> None:
        self._places[row] = place
        self._left -= 1

    def _save(self) -> None:
        os.fsync(self._file.fileno())
        self._saved = time.monotonic()

    def _in_order(self) -> Iterator[Answer]:
        with open(self._part, "rb") as file:
            for place in self._places:
                if file.tell() != place:
                    file.seek(place)
                yield read_answer(file.readline())


def _unlike(out: Path, known: object, asked: Mapping[str, Any]) -> PromptError:
    hint = "write another file, or give --overwrite to begin anew"
    if not isinstance(known, dict):
        return PromptError(f"{out} is there, and not from a batch that could go on", hint)
    flat, other = dict(_flat(asked)), dict(_flat(known))
    differs = sorted(k for k in {*flat, *other} if flat.get(k) != other.get(k))
    return PromptError(f"{out} was begun with another {', '.join(differs)}", hint)


def _flat(data: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict) and value and not before:
            yield from _flat(value, f"{key}.")
        else:
            yield f"{before}{key}".removeprefix("options."), value
