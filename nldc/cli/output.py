"""How results and mistakes are written: plain lines, tables, colours where there is a terminal.

Whatever comes from a file, a model or a name may hold what a terminal obeys, or what reorders what
it shows. On a terminal such characters are written as escapes; a pipe or a file gets the text as it
is, complete. All commands write through here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from nldc.render import printable

_NUMBER = re.compile(r"[\d.]+( s)?|wrong")
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Control characters but tab and line feed, and those that turn the direction of text."""
_ERROR, _HELP, _RESET = "\x1b[1;31m", "\x1b[1;36m", "\x1b[0m"


def visible(text: str) -> str:
    """Return the text with what a terminal would obey as escapes, `\\x1b`."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def write(text: str, end: str = "\n") -> None:
    """Write a result to standard output: as it is, but to a terminal without what it obeys."""
    _write(sys.stdout, visible(text) if _is_terminal(sys.stdout) else text, end)


def say(text: str) -> None:
    """Write to standard error, without what a terminal obeys."""
    _write(sys.stderr, visible(text) if _is_terminal(sys.stderr) else text, "\n")


def say_painted(text: str) -> None:
    """Write to standard error what is free of anything foreign, such as painted diagnostics."""
    _write(sys.stderr, text, "\n")


def say_error(message: str, hint: str | None) -> None:
    """Write a mistake and its remedy to standard error."""
    is_colored = colored(sys.stderr)
    for color, word, text in ((_ERROR, "error", message), (_HELP, "help", hint)):
        if text:
            shown = f"{color}{word}{_RESET}" if is_colored else word
            say_painted(f"{shown}: {printable(text)}")


def colored(stream: TextIO) -> bool:
    """Whether a stream is a terminal whose user wants colours."""
    return _is_terminal(stream) and not os.environ.get("NO_COLOR")


def _is_terminal(stream: TextIO) -> bool:
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
