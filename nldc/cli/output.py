"""How results and mistakes are written: plain lines, tables, colours where there is a terminal.

Whatever comes from a file, a model or a name may hold what a terminal obeys, or what reorders what
it shows. On a terminal such characters are written as escapes; a pipe or a file gets the text as it
is, complete. All commands write through here.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from nldc.render import printable
from nldc.runtime.errors import CheckpointWarning

BAR_EVERY = 0.1
"""Seconds between two drawings of a progress bar."""
_LOG = logging.getLogger("nldc")
_NUMBER = re.compile(r"[\d.]+( s)?|wrong")
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Control characters but tab and line feed, and those that turn the direction of text."""
_COLORS = {"error": "31", "help": "36", "warning": "33", "note": "33"}


def visible(text: str) -> str:
    """Return the text with what a terminal would obey as escapes, `\\x1b`."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def write(text: str, end: str = "\n") -> None:
    """Write a result to standard output: as it is, but to a terminal without what it obeys."""
    _write(sys.stdout, visible(text) if is_terminal(sys.stdout) else text, end)


def say(text: str) -> None:
    """Write to standard error, without what a terminal obeys."""
    _write(sys.stderr, visible(text) if is_terminal(sys.stderr) else text, "\n")


def say_painted(text: str) -> None:
    """Write to standard error what is free of anything foreign, such as painted diagnostics."""
    _write(sys.stderr, text, "\n")


def say_error(message: str, hint: str | None) -> None:
    """Write a mistake and its remedy to standard error."""
    _say_tagged("error", message)
    if hint:
        _say_tagged("help", hint)


def _say_tagged(word: str, text: str) -> None:
    tag = f"\x1b[1;{_COLORS[word]}m{word}\x1b[0m" if colored(sys.stderr) else word
    say_painted(f"{tag}: {printable(text)}")


class LoadingBar:
    """A line on the terminal that tells how much of a checkpoint has been read."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("reading weights"),
            BarColumn(),
            DownloadColumn(),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=None)
        self._drawn = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes have been read; the line goes when all have."""
        if done >= total:
            self.stop()
        elif time.monotonic() - self._drawn > BAR_EVERY:
            self._bar.start()
            self._bar.update(self._task, completed=done, total=total, refresh=True)
            self._drawn = time.monotonic()

    def stop(self) -> None:
        """Take the line away, whatever has been read."""
        self._bar.stop()


def loading_bar() -> LoadingBar | None:
    """Return a bar for a terminal, or None where standard error is none."""
    return LoadingBar() if is_terminal(sys.stderr) else None


@contextmanager
def notes_shown() -> Iterator[None]:
    """Let what the runtime logs and warns of appear once each, in the form of our own lines."""
    said: set[str] = set()

    def show(kind: str, text: str) -> None:
        if text not in said:
            said.add(text)
            _say_tagged(kind, text)

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            show("note", record.getMessage())

    handler, propagates, level = Notes(), _LOG.propagate, _LOG.level
    _LOG.addHandler(handler)
    _LOG.propagate = False
    try:
        with warnings.catch_warnings():
            python_shows = warnings.showwarning

            def shown(
                message: Warning | str, category: type[Warning], *place: Any, **more: Any
            ) -> None:
                if issubclass(category, CheckpointWarning):
                    show("warning", str(message))
                else:
                    python_shows(message, category, *place, **more)

            warnings.showwarning = shown
            yield
    finally:
        _LOG.removeHandler(handler)
        _LOG.propagate = propagates
        _LOG.setLevel(level)


def hide_notes() -> None:
    """Leave out, until the command ends, what is worth knowing and no mistake."""
    _LOG.setLevel(logging.ERROR)


def colored(stream: TextIO) -> bool:
    """Whether a stream is a terminal whose user wants colours."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody is watching."""
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


def _write(stream: TextIO, text: str, end: str) -> None:
    stream.write(text + end)
    stream.flush()


def table(rows: Sequence[Sequence[str]], heading: Sequence[str] = ()) -> Iterator[str]:
    """Yield lines with their columns aligned, columns of numbers to the right."""
    lines = [heading, *rows] if heading else list(rows)
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    is_number = [
        all(_NUMBER.fullmatch(cell) for cell in column[1 if heading else 0 :]) for column in columns
    ]
    for line in lines:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ]
        yield "  ".join(cells).rstrip()
