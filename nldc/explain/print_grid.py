"""Who sees whom in a forward, as a grid of characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from nldc.explain.model import Forward, Grid, Line, in_words
from nldc.explain.paint import Pen, clean, cut

TOKEN, MASK, UNSEEN, PART, WRONG = "■", "□", "·", "◧", "!"
RED = "1;31"
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
    before = 6 + width + sum(len(name) + 1 for name in grid.columns)
    if before >= room:
        yield from _listed(grid, labels, room, pen)
        return
    keys = _keys(grid, room - before)
    if grid.columns:
        yield cut(f"  {'':{width}}    {clean(' '.join(grid.columns))}", room)
    for line, label in zip(grid.lines, labels, strict=True):
        head = pen.paint(f"{label:{width}}", colors[line.kind])
        cells = pen.runs(_cells(grid, line, colors, keys))
        yield f"  {_mark(line, pen)} {head}  {_cached(grid, line, pen)}{cells}"
    notes = [clean(grid.note)] if grid.note else []
    if len(keys) < len(grid.lines):
        numbers = [
            row for key in keys for row in range(grid.lines[key].first, grid.lines[key].last + 1)
        ]
        notes.append(f"columns are of {in_words(numbers)} alone: there is no room for more")
    if notes:
        indent = "  "
        yield from wrap("; ".join(notes), room, initial_indent=indent, subsequent_indent=indent)


def _listed(grid: Grid, labels: list[str], room: int, pen: Pen) -> Iterator[str]:
    """Yield the rows alone, where there is no room to say what they see."""
    for line, label in zip(grid.lines, labels, strict=True):
        yield f"  {_mark(line, pen)} {cut(label, room - 4)}"


def _keys(grid: Grid, most: int) -> list[int]:
    """Return the lines that are columns: the first ones, and those that a mistake names."""
    wrong = {key for line in grid.lines if line.wrong for key in line.wrong.lines}
    behind = [key for key in sorted(wrong) if key >= most - len(wrong)][:most]
    first = [key for key in range(len(grid.lines)) if key not in behind]
    return sorted([*first[: most - len(behind)], *behind])


def _mark(line: Line, pen: Pen) -> str:
    if line.wrong is not None:
        return pen.paint(WRONG, RED)
    return pen.paint("✓", "32") if line.needed else " "


def _label(line: Line) -> str:
    rows = str(line.first) if line.first == line.last else f"{line.first}-{line.last}"
    return f"{rows:>5} {cut(clean(line.kind), LABEL - 12)} +{line.position}"


def _cached(grid: Grid, line: Line, pen: Pen) -> str:
    text = ""
    for name, sight in zip(grid.columns, line.cached, strict=True):
        sign = {"all": TOKEN, "none": UNSEEN, "part": PART}[sight]
        color = "2" if sight == "none" else "32"
        if line.wrong is not None and line.wrong.cached:
            sign, color = WRONG, RED
        text += pen.paint(f"{sign:{len(name)}}", color) + " "
    return text


def _cells(
    grid: Grid, line: Line, colors: dict[str, str], keys: Sequence[int]
) -> Iterator[tuple[str, str]]:
    seen = {key for first, last in line.sees for key in range(first, last + 1)}
    wrong = () if line.wrong is None else line.wrong.lines
    for number in keys:
        key = grid.lines[number]
        if number in wrong:
            yield WRONG, RED
        elif number in seen:
            yield MASK if key.masked else TOKEN, colors[key.kind]
        else:
            yield UNSEEN, "2"
