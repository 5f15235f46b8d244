"""The rows of a file of prompts: where each begins, and its bytes. Holds no row in memory."""

from __future__ import annotations

import hashlib
import os
import stat
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nldc.runtime.errors import PromptError

LONGEST = 16 << 20
"""Bytes of a line; a longer one is a row with an error."""


@dataclass(frozen=True)
class Source:
    """A file of rows, one a line: what it holds (`digest`), and the `offsets` at which they begin.

    Empty lines are no rows. A row's number is its index in `offsets`.
    """

    path: Path
    digest: str
    offsets: array[int]

    def __len__(self) -> int:
        return len(self.offsets)


def open_source(path: str | Path) -> Source:
    """Go through a file once and return where its rows begin: eight bytes of memory for each.

    Raises:
        PromptError: it cannot be read, or only once, or has no rows.
    """
    digest, offsets, offset = hashlib.sha256(), array("Q"), 0
    try:
        if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
            raise PromptError(
                f"{path} is no plain file", "write the rows into one: it is read twice"
            )
        with open(path, "rb") as file:
            while piece := file.readline(LONGEST):
                begin, is_empty = offset, not piece.strip()
                while True:
                    digest.update(piece)
                    offset += len(piece)
                    if piece.endswith(b"\n") or not (piece := file.readline(LONGEST)):
                        break
                    is_empty = is_empty and not piece.strip()
                if not is_empty:
                    offsets.append(begin)
    except OSError as problem:
        raise PromptError(f"cannot read {path}: {problem.strerror}", None) from None
    if not offsets:
        raise PromptError(f"{path} has no rows", 'write {"prompt": "…"} on each line')
    return Source(Path(path), digest.hexdigest(), offsets)


def read_lines(path: Path, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bytes | None]]:
    """Yield rows by number with their bytes, None for one too long; `places` say where each is."""
    with open(path, "rb") as file:
        for row, offset in places:
            yield row, _line(file, offset)


def _line(file: BinaryIO, offset: int) -> bytes | None:
    if file.tell() != offset:
        file.seek(offset)
    line = file.readline(LONGEST + 1)
    return line if len(line) <= LONGEST else None
