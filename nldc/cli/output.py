"""How results and mistakes are written: plain lines, tables, colours where there is a terminal.

Whatever comes from a file, a model or a name may hold what a terminal obeys, or what reorders what
it shows. On a terminal such characters are written as escapes; a pipe or a file gets the text as it
is, complete. All commands write through here.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import re
import stat
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from nldc import tabular
from nldc.render import printable, render_text, summarize
from nldc.runtime.errors import CheckpointWarning, NldcRuntimeError

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from nldc.diagnostics import Diagnostic

BAR_AFTER = 0.5
"""Seconds that something takes before a bar is drawn."""
BAR_EVERY = 0.1
"""Seconds between two drawings of a progress bar."""
NARROWEST, USUAL = 20, 80
"""Columns of the narrowest terminal that is written for, and of one that does not say."""
_LOG = logging.getLogger("nldc")
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


def write_dimmed(text: str) -> None:
    """Write what matters less to standard output: dimmed, where there are colours."""
    dimmed = f"\x1b[2m{visible(text)}\x1b[0m"
    _write(sys.stdout, dimmed if colored(sys.stdout) else visible(text), "")


def write_painted(text: str, end: str = "\n") -> None:
    """Write to standard output what is free of anything foreign, such as a painted trace."""
    _write(sys.stdout, text, end)


def put(path: str, text: str) -> None:
    """Write a text into a file, whole or not at all; it may replace one that begins alike.

    Raises:
        NldcRuntimeError: it cannot be written, or something else is there.
    """
    from nldc.runtime.files import write_whole

    refuse_place(path, text)
    try:
        write_whole(Path(path), lambda fresh: fresh.write_text(text, encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise _unwritten(path, problem) from None


def refuse_place(path: str, begin: str) -> None:
    """Refuse a place where `put` could not write a text of this beginning; raises as `put`.

    Whoever has long to compute before there is a text asks this first.
    """
    if not path:
        raise NldcRuntimeError("no file is named", "name the file to write")
    if path == "-":
        raise NldcRuntimeError(
            "`-` names no file, and this is not written to standard output",
            "name the file to write, or ./- for one of that name",
        )
    place = Path(path)
    try:
        if _is_there(place):
            _refuse_others(place, begin[:4].encode())
        elif not stat.S_ISDIR(place.parent.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(place.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as problem:
        raise _unwritten(path, problem) from None


def _is_there(place: Path) -> bool:
    """Whether something is at a place; raises OSError where nothing can be, as of a long name."""
    try:
        place.lstat()
    except FileNotFoundError:
        return False
    return True


def _unwritten(path: str, problem: OSError | ValueError) -> NldcRuntimeError:
    reason = getattr(problem, "strerror", None) or str(problem)
    return NldcRuntimeError(f"{path} cannot be written: {reason.lower()}", "name another file")


def _refuse_others(place: Path, begin: bytes) -> None:
    if place.is_symlink() or not place.is_file():
        raise NldcRuntimeError(f"{place} is no plain file", "name another file")
    with place.open("rb") as file:
        found = file.read(len(begin))
    if found not in (b"", begin):
        raise NldcRuntimeError(f"{place} holds something else", "remove it, or name another file")


def say(text: str) -> None:
    """Write to standard error, without what a terminal obeys."""
    _write(sys.stderr, visible(text) if is_terminal(sys.stderr) else text, "\n")


def say_painted(text: str) -> None:
    """Write to standard error what is free of anything foreign, such as painted diagnostics."""
    _write(sys.stderr, text, "\n")


def say_diagnostics(found: Sequence[Diagnostic]) -> None:
    """Write mistakes and warnings of strategies to standard error, each at its place."""
    width = width_of(sys.stderr)
    say_painted(render_text(found, color=colored(sys.stderr), width=width))


def say_mistakes(found: Sequence[Diagnostic]) -> None:
    """Write mistakes and warnings to standard error, and how many there are."""
    say_diagnostics(found)
    say(summarize(found))


def say_error(message: str, hint: str | None) -> None:
    """Write a mistake and its remedy to standard error."""
    _say_tagged("error", message)
    if hint:
        _say_tagged("help", hint)


def say_note(text: str) -> None:
    """Write what is worth knowing and no mistake to standard error, unless notes are hidden."""
    if _LOG.isEnabledFor(logging.WARNING):
        _say_tagged("note", text)


def _say_tagged(word: str, text: str) -> None:
    tag = f"\x1b[1;{_COLORS[word]}m{word}\x1b[0m" if colored(sys.stderr) else word
    text, width, taken = printable(text), width_of(sys.stderr), len(word) + 2
    lines = [text] if width is None else tabular.wrap(text, width, " " * taken, taken)
    say_painted("\n".join([f"{tag}: {lines[0]}", *lines[1:]]))


class Bar:
    """A line on the terminal that tells how far something is, in columns of rich."""

    def __init__(self, *columns: ProgressColumn) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._bar = Progress(
            *columns, console=Console(stderr=True), transient=True, auto_refresh=False
        )
        self._task = self._bar.add_task("", total=None)
        self._is_drawn = False
        self._drawn = 0.0

    def show(self, done: int, total: int, text: str = "") -> None:
        """Draw the line, unless that was done just now; `text` is its description."""
        if time.monotonic() - self._drawn < BAR_EVERY:
            return
        self._bar.start()
        self._is_drawn = True
        self._bar.update(self._task, completed=done, total=total, description=text, refresh=True)
        self._drawn = time.monotonic()

    def stop(self) -> None:
        """Take the line away, however far it is."""
        if self._is_drawn:
            self._bar.stop()
            self._is_drawn = False


class LoadingBar:
    """A line on the terminal that tells how much of a checkpoint has been read."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, TextColumn

        self._bar = Bar(TextColumn("reading weights"), BarColumn(), DownloadColumn())

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes have been read; the line goes when all have."""
        if done >= total:
            self.stop()
        else:
            self._bar.show(done, total)

    def stop(self) -> None:
        """Take the line away, whatever has been read."""
        self._bar.stop()


def loading_bar() -> LoadingBar | None:
    """Return a bar for a terminal, or None where standard error is none."""
    return LoadingBar() if takes_bars() else None


@contextmanager
def counting(text: str) -> Iterator[Callable[[int, int], object] | None]:
    """Yield what shows on a terminal how much of how much is done, once it takes a while.

    None where standard error is no terminal. The line goes at the end, whatever that is.
    """
    if not takes_bars():
        yield None
        return
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn(text), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar, began = Bar(*columns), time.monotonic()

    def show(done: int, total: int) -> None:
        if time.monotonic() - began > BAR_AFTER:
            bar.show(done, total)

    try:
        yield show
    finally:
        bar.stop()


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show on a terminal that something goes on of which nobody knows how far it is.

    The line comes once it takes a while, and goes at the end, whatever that is.
    """
    if not takes_bars():
        yield
        return
    from rich.console import Console
    from rich.status import Status

    line = Status(text, console=Console(stderr=True))
    timer = threading.Timer(BAR_AFTER, line.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        line.stop()


def start_torch() -> None:
    """Import torch, which takes a second or several, before what needs it is imported."""
    if "torch" in sys.modules:
        return
    with waiting("starting torch"):
        importlib.import_module("torch")


@contextmanager
def notes_shown() -> Iterator[None]:
    """Let what the runtime logs and warns of appear once each, in the form of our own lines."""
    said: set[str] = set()

    def show(kind: str, text: str) -> None:
        if text not in said:
            said.add(text)
            _say_tagged(kind, text)

    began = time.monotonic()

    class Notes(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                show("note", record.getMessage())
            else:
                say_painted(f"{time.monotonic() - began:8.2f} s  {printable(record.getMessage())}")

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


def show_steps() -> None:
    """Tell, until the command ends, what is read, made and used, and when."""
    _LOG.setLevel(logging.INFO)


def hide_notes() -> None:
    """Leave out, until the command ends, what is worth knowing and no mistake."""
    _LOG.setLevel(logging.ERROR)


def colored(stream: TextIO) -> bool:
    """Whether a stream is a terminal whose user wants colours, or colours are asked for anyway.

    The variables are those that many programs know: NO_COLOR, FORCE_COLOR, TERM=dumb.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def takes_bars() -> bool:
    """Whether standard error is a terminal on which a line can be drawn and taken away."""
    return is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"


def width_of(stream: TextIO) -> int | None:
    """Return how many columns a terminal has, or COLUMNS says; None where nobody is watching."""
    if not is_terminal(stream):
        return None
    said = os.environ.get("COLUMNS", "")
    columns = int(said) if said.isascii() and said.isdigit() and len(said) < 6 else 0
    if not columns:
        try:
            columns = os.get_terminal_size(stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
    return max(NARROWEST, columns or USUAL)


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody is watching."""
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


def _write(stream: TextIO, text: str, end: str) -> None:
    stream.write(text + end)
    stream.flush()


def table(
    rows: Sequence[Sequence[str]], heading: Sequence[str] = (), indent: str = ""
) -> Iterator[str]:
    """Yield the lines of a table for standard output, which fit where that is a terminal."""
    return tabular.table(rows, heading, width=width_of(sys.stdout), indent=indent)
