"""Who sees whom in a forward, as a grid of characters."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from nldc.explain.model import Forward, Grid, Line
from nldc.explain.paint import Pen, clean, cut

TOKEN, MASK, UNSEEN, PART = "■", "□", "·", "◧"
KINDS = ("34", "33", "36", "35", "32")
"""Colours of kinds of rows, in the order in which they are met."""
LABEL = 24


def print_grid(forward: Forward, room: int, pen: Pen) -> Iterator[str]:
    """Yield the grid of a forward: a line a row, or a line for rows that are alike."""
    grid = forward.grid
    kinds = list(dict.fromkeys(line.kind for line in grid.lines))
    colors = {kind: KINDS[number % len(KINDS)] for number, kind in enumerate(kinds)}
    labels = [_label(line) for line in grid.lines]
    width = max(map(len, labels), default=0)
    if grid.columns:
        yield cut(f"  {'':{width}}    {clean(' '.join(grid.columns))}", room)
    for line, label in zip(grid.lines, labels, strict=True):
        mark = pen.paint("✓", "32") if line.needed else " "
        cells = pen.runs(_cells(grid, line, colors))
        head = pen.paint(f"{label:{width}}", colors[line.kind])
        text = f"  {mark} {head}  {_cached(grid, line, pen)}{cells}"
        yield text if pen.colored else text[:room].rstrip()
    if grid.note:
        indent = "  "
        yield from wrap(clean(grid.note), room, initial_indent=indent, subsequent_indent=indent)


def _label(line: Line) -> str:
    rows = str(line.first) if line.first == line.last else f"{line.first}-{line.last}"
    return f"{rows:>5} {cut(clean(line.kind), LABEL - 12)} +{line.position}"


def _cached(grid: Grid, line: Line, pen: Pen) -> str:
    text = ""
    for name, sight in zip(grid.columns, line.cached, strict=True):
        sign = {"all": TOKEN, "none": UNSEEN, "part": PART}[sight]
        text += pen.paint(f"{sign:{len(name)}}", "2" if sight == "none" else "32") + " "
    return text


def _cells(grid: Grid, line: Line, colors: dict[str, str]) -> Iterator[tuple[str, str]]:
    seen = {key for first, last in line.sees for key in range(first, last + 1)}
    for number, key in enumerate(grid.lines):
        if number in seen:
            yield MASK if key.masked else TOKEN, colors[key.kind]
        else:
            yield UNSEEN, "2"
