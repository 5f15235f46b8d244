"""Tables of plain text that fit a width: cells are wrapped between words, and no word is cut.

Where the columns would not fit even so, or a cell would take many lines, each row becomes a few
lines of its own. A word that is wider than the width, such as a path, stands whole on its line.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

GAP = "  "
HELD = "\x01"
"""A space at which no line is broken, such as one in quotes; it is printed as a space."""
HIGHEST = 4
"""Lines that a cell takes at most, if its words were as wide as its column."""
_NUMBER = re.compile(r"[\d.]+( s)?|wrong|none")
_INDENT = "  "


def table(
    rows: Sequence[Sequence[str]],
    heading: Sequence[str] = (),
    *,
    width: int | None = None,
    right: Sequence[bool] | None = None,
    indent: str = "",
) -> Iterator[str]:
    """Yield lines with their columns aligned, columns of numbers to the right.

    No line is wider than `width` (None: as wide as it comes). `right` says which columns go to the
    right, whatever they hold; `indent` stands before every line.
    """
    lines = [heading, *rows] if heading else list(rows)
    if not lines:
        return
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    if right is None:
        right = [
            all(_NUMBER.fullmatch(cell) or not cell for cell in column[1 if heading else 0 :])
            for column in columns
        ]
    if width is not None:
        fitted = _fitted(columns, widths, right, width - len(indent))
        if fitted is None:
            yield from _apart(rows, heading, right, width, indent)
            return
        widths = fitted
    for line in lines:
        wrapped = [
            [cell] if len(cell) <= room else wrap(cell, room)
            for cell, room in zip(line, widths, strict=True)
        ]
        for number in range(max(map(len, wrapped))):
            cells = [
                cell.rjust(room) if is_right else cell.ljust(room)
                for parts, room, is_right in zip(wrapped, widths, right, strict=True)
                for cell in [parts[number] if number < len(parts) else ""]
            ]
            yield f"{indent}{GAP.join(cells)}".rstrip().replace(HELD, " ")


def wrap(text: str, width: int, after: str = "", taken: int = 0) -> list[str]:
    """Return a text as lines, wrapped between words; `after` begins all but the first.

    On the first line so many columns are `taken` by what stands before it.
    """
    held = "\0" * taken  # no space, so that it stays with the first word
    lines = textwrap.wrap(
        held + text,
        max(width, len(after) + 8 if after else 1),
        subsequent_indent=after,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]
    return [line.replace(HELD, " ") for line in (lines[0][taken:], *lines[1:])]


def _fitted(
    columns: Sequence[Sequence[str]], widths: list[int], right: Sequence[bool], width: int
) -> list[int] | None:
    """Return how wide columns are so that a line fits.

    None: words would have to be cut, or a cell would be a high and narrow column of them.
    """
    room = width - len(GAP) * (len(widths) - 1)
    widths = list(widths)
    least = [
        own if is_right else max(len(word) for cell in column for word in [*cell.split(), ""])
        for column, own, is_right in zip(columns, widths, right, strict=True)
    ]
    if sum(least) > room:
        return None
    while sum(widths) > room:
        loose = [n for n, own in enumerate(widths) if own > least[n]]
        widest = max(loose, key=lambda n: widths[n])
        widths[widest] -= 1
    pairs = [(cell, own) for column, own in zip(columns, widths, strict=True) for cell in column]
    if any(len(cell) > HIGHEST * own for cell, own in pairs):
        return None
    return widths


def _apart(
    rows: Sequence[Sequence[str]],
    heading: Sequence[str],
    right: Sequence[bool],
    width: int,
    indent: str,
) -> Iterator[str]:
    """Yield each row as lines of its own: its first cell, then the others, named by the heading."""
    names = heading or [""] * len(rows[0])
    after = indent + _INDENT
    for row in rows:
        own = f"{names[0]} {row[0]}" if right[0] and names[0] else row[0]
        yield from wrap(indent + own, width, after)
        numbers: list[str] = []
        for cell, name, is_right in zip(row[1:], names[1:], right[1:], strict=True):
            if is_right and cell:
                numbers.append(f"{name} {cell}".strip())
            elif cell:
                yield from _listed(numbers, width, after)
                numbers = []
                told = f"{name}: {cell}" if name else cell
                yield from wrap(after + told, width, after + _INDENT)
        yield from _listed(numbers, width, after)


def _listed(numbers: Sequence[str], width: int, after: str) -> Iterator[str]:
    if numbers:
        yield from wrap(after + ", ".join(numbers), width, after)
