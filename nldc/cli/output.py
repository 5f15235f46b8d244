"""How results and mistakes are written: plain lines, tables, colours where there is a terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import TextIO

import click

from nldc.render import printable

_NUMBER = re.compile(r"[\d.]+( s)?|wrong")


def say(text: str) -> None:
    """Write to standard error."""
    click.echo(text, err=True)


def say_error(message: str, hint: str | None) -> None:
    """Write a mistake and its remedy to standard error."""
    say(f"{click.style('error', fg='red', bold=True)}: {printable(message)}")
    if hint:
        say(f"{click.style('help', fg='cyan', bold=True)}: {printable(hint)}")


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
