"""How results and mistakes are written: plain lines, tables, colours where there is a terminal."""

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

import click

from nldc.render import printable
from nldc.runtime.errors import CheckpointWarning

BAR_EVERY = 0.1
"""Seconds between two drawings of a progress bar."""
_LOG = logging.getLogger("nldc")
_NUMBER = re.compile(r"[\d.]+( s)?|wrong")


def say(text: str) -> None:
    """Write to standard error."""
    click.echo(text, err=True)


def say_error(message: str, hint: str | None) -> None:
    """Write a mistake and its remedy to standard error."""
    say(f"{click.style('error', fg='red', bold=True)}: {printable(message)}")
    if hint:
        say(f"{click.style('help', fg='cyan', bold=True)}: {printable(hint)}")


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


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody is watching."""
    return stream.isatty()


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
            say(f"{click.style(kind, fg='yellow', bold=True)}: {printable(text)}")

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
    return stream.isatty() and not os.environ.get("NO_COLOR")


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
