"""Diagnostics as data: where a mistake is, what it is, and what would put it right.

`StrategyError` carries the user's mistakes, all of them, sorted by place; `InternalError` is our
own bug and asks for a report. Nothing is printed here: see `nldc.render`.
"""

from __future__ import annotations

import difflib
import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Never

from nldc import __version__

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Span:
    """A range of characters in a file: lines and columns from 1, the end exclusive.

    `start` and `end` are the same range as character offsets into the file's text. `via` is the
    place of another file that brought this one in, and what it does there.
    """

    file: str
    start_line: int
    start_column: int
    end_line: int
    end_column: int
    start: int = 0
    end: int = 0
    via: Label | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.start_line}:{self.start_column}"


@dataclass(frozen=True)
class Label:
    """A span and what to say beside it; the primary one is where the mistake is."""

    span: Span
    text: str = ""
    primary: bool = True


@dataclass(frozen=True)
class Diagnostic:
    """One mistake. The message stands alone; labels, help and notes add the detail."""

    code: str
    severity: Severity
    message: str
    labels: tuple[Label, ...] = ()
    help: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def span(self) -> Span | None:
        """The place of the mistake: the first primary label, else the first label."""
        for label in self.labels:
            if label.primary:
                return label.span
        return self.labels[0].span if self.labels else None


def with_ways(diagnostic: Diagnostic) -> Diagnostic:
    """Return the diagnostic with a label at each place that brought one of its files in."""
    labels = list(diagnostic.labels)
    for label in labels:  # those that are added here too: a file may be many steps away
        via = label.span.via
        if via is not None and all(via.span != known.span for known in labels):
            labels.append(via)
    return replace(diagnostic, labels=tuple(labels))


def place(diagnostic: Diagnostic) -> tuple[str, int, int, str, str]:
    """Return a sort key: file, place in the file, then code and message."""
    span = diagnostic.span
    if span is None:
        return ("", 0, 0, diagnostic.code, diagnostic.message)
    return (span.file, span.start_line, span.start_column, diagnostic.code, diagnostic.message)


class StrategyError(Exception):
    """Mistakes in a strategy file or in how it is used, reported together."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics: tuple[Diagnostic, ...] = tuple(sorted(set(diagnostics), key=place))
        super().__init__(self.diagnostics)

    def __str__(self) -> str:
        return "\n".join(
            f"{diagnostic.span or '<no place>'}: {diagnostic.severity}[{diagnostic.code}]: "
            f"{diagnostic.message}"
            for diagnostic in self.diagnostics
        )


class InternalError(Exception):
    """A bug in the compiler, never a mistake of the user's."""

    def __str__(self) -> str:
        what = super().__str__()
        return (
            f"internal compiler error: {what}\n"
            "This is a bug in nldc, not in your strategy. Please report it with the strategy "
            "file and these lines:\n"
            f"nldc {__version__}, Python {platform.python_version()}, {platform.platform()}"
        )


MANY = 300
"""Of more names than this none is guessed: comparing takes long, and a guess says little."""


def untold(op: Never, place: str) -> InternalError:
    """Return the error of a module that was not told of an op; mypy finds it first."""
    name = type(op).__name__
    return InternalError(f"{place} was not told of the op {name}: CONTRIBUTING.md lists its places")


def counted(number: int, noun: str) -> str:
    """Return a number of things in words: `1 row`, `2 rows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that `name` was probably meant to be, or None."""
    distinct = set(candidates)
    if len(distinct) > MANY:
        return None
    known = sorted(distinct)
    by_lower = {candidate.lower(): candidate for candidate in reversed(known)}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    cutoff = 0.75 if len(name) <= 3 else 0.6
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None
