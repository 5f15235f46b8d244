"""Diagnostics as text with carets, as one line each, or as JSON.

The caret text shows every labelled line once, in order, with `^` under primary labels and `-`
under secondary ones. Columns are those of the screen: tabs are widened, wide characters count two.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from nldc.diagnostics import Diagnostic, Label, Span
from nldc.tabular import wrap

TAB = 4
MAX_WIDTH = 160
LEAST_WIDTH = 16
CONTEXT_WIDTH = 40
MAX_SPANNED_LINES = 6
MAX_MESSAGE = 800
MAX_SHOWN = 50
MAX_BYTES = 1 << 20

_RESET = "\x1b[0m"
_BOLD = "\x1b[1m"
_COLORS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "help": "\x1b[1;36m"}
_QUIET = "\x1b[1;34m"

ReadText = Callable[[str], str | None]
"""Gives the text of a file by its name in spans, or None."""


def read_file(name: str) -> str | None:
    """Return the text of a file on disk as `nldc.source` saw it, or None."""
    try:
        with open(name, "rb") as file:
            return file.read(MAX_BYTES).decode("utf-8").removeprefix("\ufeff")
    except (OSError, ValueError):
        return None


def render_text(
    diagnostics: Iterable[Diagnostic],
    read: ReadText = read_file,
    color: bool = False,
    width: int | None = None,
) -> str:
    """Return caret text for diagnostics, separated by empty lines, ending in a newline.

    Of more than `MAX_SHOWN` the rest is only counted. Lines fit a `width`, if there is one, but for
    places and single words that are wider.
    """
    found = list(diagnostics)
    lines = cache(lambda name: None if (text := read(name)) is None else _LINE_END.split(text))
    parts = [_caret_text(diagnostic, lines, color, width) for diagnostic in found[:MAX_SHOWN]]
    more = len(found) - MAX_SHOWN
    if more > 0:
        parts.append(f"and {more} more; `--format line` lists them all\n")
    return "\n".join(parts)


def render_line(diagnostic: Diagnostic) -> str:
    """Return `file:line:column: severity[code]: message`."""
    place = f"{diagnostic.span}: " if diagnostic.span else ""
    return printable(f"{place}{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}")


def render_json(diagnostics: Iterable[Diagnostic]) -> str:
    """Return a JSON list: code, severity, message, labels with their places, help, notes."""
    return json.dumps([diagnostic_data(diagnostic) for diagnostic in diagnostics], indent=2)


def diagnostic_data(diagnostic: Diagnostic) -> dict[str, Any]:
    """Return a diagnostic as plain data for JSON; its place is a line and a column, from 1."""
    span = diagnostic.span
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "file": None if span is None else span.file,
        "place": None if span is None else [span.start_line, span.start_column],
        "labels": [
            {
                "file": label.span.file,
                "start": [label.span.start_line, label.span.start_column],
                "end": [label.span.end_line, label.span.end_column],
                "text": label.text,
                "primary": label.primary,
            }
            for label in diagnostic.labels
        ],
        "help": list(diagnostic.help),
        "notes": list(diagnostic.notes),
    }


def summarize(diagnostics: Iterable[Diagnostic]) -> str:
    """Return one sentence: how many errors and warnings, and how to read about them."""
    found = list(diagnostics)
    counts = []
    for severity in ("error", "warning"):
        number = sum(diagnostic.severity == severity for diagnostic in found)
        if number:
            counts.append(f"{number} {severity}{'s' if number > 1 else ''}")
    if not counts:
        return "no errors"
    return f"{' and '.join(counts)}; `nldc explain {found[0].code}` tells more"


def printable(text: str) -> str:
    """Return the text with what a terminal would obey as escapes, and without a long middle."""
    if len(text) > MAX_MESSAGE:
        half = MAX_MESSAGE // 2
        text = f"{text[:half]} … {text[-half:]}"
    return escaped(text)


def escaped(text: str) -> str:
    """Return the text on one line, with what a terminal would obey as escapes."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


_LINE_END = re.compile(r"\r\n|\r|\n")


def _caret_text(
    diagnostic: Diagnostic,
    lines_of: Callable[[str], list[str] | None],
    color: bool,
    width: int | None,
) -> str:
    paint = _Paint(color, diagnostic.severity)
    heading = f"{diagnostic.severity}[{diagnostic.code}]"
    said, *rest = _wrapped(printable(diagnostic.message), width, len(heading) + 2, 2)
    lines = [f"{paint.severity(heading)}{paint.bold(': ' + said)}", *map(paint.bold, rest)]
    files = dict.fromkeys(label.span.file for label in diagnostic.labels)
    last = max((label.span.end_line for label in diagnostic.labels), default=0)
    margin = " " * len(str(last))
    place = diagnostic.span
    for file in sorted(files, key=lambda name: place is None or name != place.file):
        labels = [label for label in diagnostic.labels if label.span.file == file]
        first = next((label for label in labels if label.primary), labels[0])
        arrow = "-->" if place and file == place.file else ":::"
        lines.append(f"{margin}{paint.quiet(arrow)} {printable(str(first.span))}")
        text = lines_of(file)
        if text is not None:
            lines.append(f"{margin} {paint.quiet('|')}")
            lines.extend(_snippet(text, labels, len(margin), paint, width))
    if diagnostic.labels and (diagnostic.help or diagnostic.notes):
        lines.append(f"{margin} {paint.quiet('|')}")
    tails = [(paint.help("help"), each) for each in diagnostic.help]
    tails += [(paint.bold("note"), each) for each in diagnostic.notes]
    for word, said in tails:
        first_line, *others = _wrapped(printable(said), width, 6, 6)
        lines += [f"{word}: {first_line}", *others]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Paint:
    color: bool
    level: str

    def __call__(self, code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if self.color and text else text

    def severity(self, text: str) -> str:
        return self(_COLORS[self.level], text)

    def bold(self, text: str) -> str:
        return self(_BOLD, text)

    def quiet(self, text: str) -> str:
        return self(_QUIET, text)

    def help(self, text: str) -> str:
        return self(_COLORS["help"], text)

    def mark(self, primary: bool, text: str) -> str:
        return self.severity(text) if primary else self.quiet(text)


@dataclass(frozen=True)
class _Mark:
    """A label's part on one line of the screen: columns from 0, the end exclusive."""

    start: int
    end: int
    label: Label
    text: str


# One snippet: the labelled lines of one file


def _snippet(
    lines: list[str], labels: list[Label], margin: int, paint: _Paint, width: int | None
) -> Iterator[str]:
    labels = [replace(label, span=_without_last_break(label.span, lines)) for label in labels]
    long = [label for label in labels if label.span.start_line != label.span.end_line]
    long.sort(key=lambda label: (label.span.start_line, -label.span.end_line))
    shown = sorted({line for label in labels for line in _shown_lines(label.span)})
    lanes = len(long) + 1 if long else 0
    room = None if width is None else max(LEAST_WIDTH, width - margin - 3 - lanes)
    previous = None
    for number in shown:
        if previous is not None and number == previous + 2:
            yield from _line(number - 1, lines, labels, long, margin, paint, room)
        elif previous is not None and number > previous + 2:
            yield f"{paint.quiet('...')}{' ' * margin}{_bars(long, number, paint)}".rstrip()
        yield from _line(number, lines, labels, long, margin, paint, room)
        previous = number


def _without_last_break(span: Span, lines: list[str]) -> Span:
    if span.end_line > span.start_line and span.end_column == 1:
        last = span.end_line - 1
        end_column = len(lines[last - 1]) + 1 if last <= len(lines) else 1
        return _without_last_break(replace(span, end_line=last, end_column=end_column), lines)
    return span


def _shown_lines(span: Span) -> Iterable[int]:
    if span.end_line - span.start_line < MAX_SPANNED_LINES:
        return range(span.start_line, span.end_line + 1)
    return (span.start_line, span.start_line + 1, span.end_line)


def _line(
    number: int,
    lines: list[str],
    labels: list[Label],
    long: list[Label],
    margin: int,
    paint: _Paint,
    room: int | None,
) -> Iterator[str]:
    """Yield one line of the file and the rows of marks below it, in so many columns."""
    text = lines[number - 1] if number <= len(lines) else ""
    here = [label for label in labels if label.span.start_line == label.span.end_line == number]
    opening = [label for label in long if label.span.start_line == number]
    closing = [label for label in long if label.span.end_line == number]
    edges = [label.span.start_column - 1 for label in [*here, *opening]]
    edges += [label.span.end_column - 2 for label in closing]
    window = _Window.around(text, min(edges, default=0), room)
    bar = paint.quiet("|")
    lanes = f"{_bars(long, number, paint)} " if long else ""
    yield f"{paint.quiet(str(number).rjust(margin))} {bar} {lanes}{window.shown}".rstrip()
    marks = [
        _Mark(
            window.column(label.span.start_column - 1),
            max(
                window.column(label.span.end_column - 1),
                window.column(label.span.start_column - 1) + 1,
            ),
            label,
            printable(label.text),
        )
        for label in here
    ]
    for row in _mark_rows(marks, paint, room):
        yield f"{' ' * margin} {bar} {lanes}{row}".rstrip()
    for label in opening:
        lane = long.index(label)
        run = "_" * (len(long) - lane + window.column(label.span.start_column - 1))
        edge = paint.mark(label.primary, run + _sign(label))
        yield f"{' ' * margin} {bar} {_bars(long[:lane], number, paint)} {edge}"
    for label in reversed(closing):
        lane = long.index(label)
        run = "_" * (len(long) - lane + window.column(label.span.end_column - 2))
        words = f" {printable(label.text)}" if label.text else ""
        before = f"{' ' * margin} {bar} {_bars(long[:lane], number, paint)}"
        tail: list[str] = []
        if room is not None and lane + len(run) + 2 + len(words) > room + len(long) + 1:
            own = room + len(long) + 1 - lane
            words, tail = "", _wrapped(words.strip(), own, 0, 0)
        yield before + paint.mark(label.primary, f"|{run}{_sign(label)}{words}")
        yield from (before + paint.mark(label.primary, text) for text in tail)


def _bars(long: list[Label], number: int, paint: _Paint) -> str:
    """Return a vertical bar for each label that has begun above this line and reaches it."""
    return "".join(
        paint.mark(label.primary, "|")
        if label.span.start_line < number <= label.span.end_line
        else " "
        for label in long
    )


def _sign(label: Label) -> str:
    return "^" if label.primary else "-"


def _mark_rows(marks: list[_Mark], paint: _Paint, room: int | None) -> Iterator[str]:
    """Yield the row of carets, the last label's text beside it, and the other texts below."""
    if not marks:
        return
    marks = sorted(marks, key=lambda mark: (mark.start, mark.end))
    last = marks[-1]
    is_clear = all(mark.end <= last.start for mark in marks[:-1] if mark is not last)
    is_clear = is_clear and (room is None or last.end + 1 + len(last.text) <= room)
    carets = _Row()
    for mark in sorted(marks, key=lambda mark: mark.label.primary):
        carets.put(mark.start, _sign(mark.label) * (mark.end - mark.start), mark.label.primary)
    if is_clear and last.text:
        carets.put(last.end + 1, last.text, last.label.primary)
    yield carets.painted(paint)
    waiting = [mark for mark in marks if mark.text and not (is_clear and mark is last)]
    if not waiting:
        return
    row = _Row()
    for mark in waiting:
        row.put(mark.start, "|", mark.label.primary)
    yield row.painted(paint)
    while waiting:
        mark = waiting.pop()
        column = mark.start
        if room is not None:
            column = max(0, min(column, room - min(len(mark.text), LEAST_WIDTH)))
        own = None if room is None else room - column
        for text in _wrapped(mark.text, own, 0, 0):
            row = _Row()
            for other in waiting:
                row.put(other.start, "|", other.label.primary)
            row.put(column, text, mark.label.primary)
            yield row.painted(paint)


class _Row:
    """A row of characters, each painted as part of a primary or a secondary label."""

    def __init__(self) -> None:
        self.cells: list[tuple[str, bool | None]] = []

    def put(self, column: int, text: str, primary: bool) -> None:
        missing = column + len(text) - len(self.cells)
        self.cells.extend([(" ", None)] * missing)
        self.cells[column : column + len(text)] = [(character, primary) for character in text]

    def painted(self, paint: _Paint) -> str:
        runs: list[tuple[str, bool | None]] = []
        for character, primary in self.cells:
            if runs and runs[-1][1] == primary:
                runs[-1] = (runs[-1][0] + character, primary)
            else:
                runs.append((character, primary))
        return "".join(
            text if primary is None else paint.mark(primary, text) for text, primary in runs
        )


@dataclass(frozen=True)
class _Window:
    """The part of a line that fits the screen, and the screen column of each character."""

    shown: str
    columns: tuple[int, ...]
    first: int

    @staticmethod
    def around(line: str, character: int, room: int | None = None) -> _Window:
        """Choose the part around a character; lines that fit are shown whole."""
        most, context = MAX_WIDTH, CONTEXT_WIDTH
        fits = room is None or (len(line) <= room and _screen_width(line) <= room)
        if room is not None and not fits:
            most = min(most, room - 2)  # both ends may be marked as cut
            context = most // 4
        first, last = _part(line, character, most, context)
        while room and not fits and most > 1 and _screen_width(line[first:last]) > room - 2:
            most -= 1  # some characters take two columns
            first, last = _part(line, character, most, min(context, most // 4))
        shown = "…" if first else ""
        columns = []
        for sign in line[first:last]:
            columns.append(_width_of(shown))
            if sign == "\t":
                shown += " " * (TAB - columns[-1] % TAB)
            else:
                shown += sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}"
        columns.append(_width_of(shown))
        return _Window(shown + ("…" if last < len(line) else ""), tuple(columns), first)

    def column(self, character: int) -> int:
        """Return the screen column of the line's character, as near as the window goes."""
        return self.columns[min(max(character - self.first, 0), len(self.columns) - 1)]


def _part(line: str, character: int, most: int, context: int) -> tuple[int, int]:
    """Return where the part of a line begins and ends that has so many characters at most."""
    if len(line) <= most:
        return 0, len(line)
    first = min(max(0, character - context), len(line) - most)
    return first, first + most


def _screen_width(text: str) -> int:
    return _width_of(text) + (TAB - 1) * text.count("\t")


def _wrapped(text: str, width: int | None, first: int, after: int) -> list[str]:
    """Return a text as lines: `first` columns are taken on the first, the others are indented."""
    return [text] if width is None else wrap(text, width, " " * after, taken=first)


def _width_of(text: str) -> int:
    return sum(
        0
        if unicodedata.combining(sign) or sign in "\u200d\ufe0f"
        else 2
        if unicodedata.east_asian_width(sign) in "WF"
        else 1
        for sign in text
    )
