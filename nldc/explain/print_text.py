"""The short explanation for a terminal: promise, picture, forwards with their cost, grids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap

from nldc.explain.model import Cost, Explained, Forward, Promise, kinds_in_words
from nldc.explain.paint import Pen, clean, cut
from nldc.explain.print_boxes import print_boxes
from nldc.explain.print_grid import MASK, PART, TOKEN, UNSEEN, WRONG, print_grid

NARROWEST, WIDEST = 20, 100
MOST_LINES = 40
"""Lines of a grid in a terminal, however wide it is."""


def print_text(told: Explained, *, room: int = 80, colored: bool = False) -> str:
    """Return the explanation in `room` columns, in colours if wanted.

    It holds nothing else that a terminal obeys.
    """
    room = max(NARROWEST, min(room, WIDEST))
    pen = Pen(colored)
    parts = [
        _head(told, room, pen),
        _promise(told.promise, room, pen),
        (line for note in told.notes for line in _wrapped(note, room)),
        *_regions(told, room, pen),
        _forwards(told, room, pen),
        *_grids(told, room, pen),
        _wrapped("--full tells all of it, --html FILE draws a page, --svg FILE the graph", room),
    ]
    return "\n\n".join(text for part in parts if (text := "\n".join(part))) + "\n"


def _head(told: Explained, room: int, pen: Pen) -> Iterator[str]:
    first, *others = _wrapped(f"{told.name}: {told.summary}", room)
    name = clean(told.name)
    yield pen.paint(name, "1") + first.removeprefix(name) if first.startswith(name) else first
    yield from others
    for each in told.uses:
        yield from _wrapped(each, room)
    for key, value in told.params:
        yield from _wrapped(f"{key} = {value}", room, "  ")


def _promise(promise: Promise, room: int, pen: Pen) -> Iterator[str]:
    first, *others = _wrapped(promise.text, room)
    yield from (pen.paint(line, "1;32" if promise.exact else "1;33") for line in (first, *others))
    for reason in promise.reasons:
        mark = "✓" if promise.exact else reason.name
        rests = f" ({'; '.join(reason.brief)})" if reason.brief else ""
        yield from _wrapped(f"{mark} {reason.text}{rests}", room, "  ", " " * (len(mark) + 1))


def _regions(told: Explained, room: int, pen: Pen) -> Iterator[Iterator[str]]:
    for region in told.regions:
        if not region.plain:
            yield _titled(region.title, print_boxes(region, room - 2, pen), room, pen)


def _titled(title: str, lines: Iterable[str], room: int, pen: Pen) -> Iterator[str]:
    yield pen.paint(cut(clean(title), room), "1")
    yield from (f"  {line}" if line else "" for line in lines)


def _forwards(told: Explained, room: int, pen: Pen) -> Iterator[str]:
    of = "" if told.setting is None else f", on {told.setting.text}"
    first, *others = _wrapped(f"forwards{of}", room)
    yield pen.paint(first, "1")
    yield from others
    costs = {(cost.name, cost.what): cost for step in told.steps for cost in step.costs}
    rows = [("", "rows", "times", "floor", "predicted")]
    for forward in told.forwards:
        cost = costs.get((forward.name, "forward"))
        times = f"<= {forward.repeats}" if forward.repeats > 1 else "1"
        rows.append((forward.title, _rows(forward), *_cost(cost, times)))
    if told.setting is not None:
        for step in told.steps:
            heads = [cost for cost in step.costs if cost.what == "head"]
            rows += [(f"{each.title} (head)", str(each.rows), *_cost(each, "")) for each in heads]
            rows.append((f"{step.name}, all of it", "", *_cost(step.total, "")))
    drop = 3 if told.setting is None else 5
    yield from _columns([row[:drop] for row in rows], room)
    for step in told.steps:
        yield from _wrapped(step.counts, room, "  ")
    if told.setting is not None:
        for line in told.setting.speed:
            yield from _wrapped(line, room, "  ")


def _rows(forward: Forward) -> str:
    kinds = kinds_in_words(forward.kinds)
    return f"{forward.size}: {kinds}" if len(forward.kinds) > 1 else forward.size


def _cost(cost: Cost | None, times: str) -> tuple[str, str, str]:
    if cost is None:
        return times, "", ""
    said = "" if cost.what == "step" else f"{cost.times:g}"
    return said, milliseconds(cost.floor), milliseconds(cost.predicted)


def milliseconds(seconds: float) -> str:
    """Return seconds as the tables have them."""
    return f"{seconds * 1e3:.2f} ms"


def _columns(rows: Sequence[Sequence[str]], room: int) -> Iterator[str]:
    rest = max(sum(map(len, row[2:])) + 2 * len(row[2:]) for row in rows)
    most = max((room - rest - 4) // 2, 12)
    short = [[cut(clean(cell), most) for cell in row[:2]] + list(row[2:]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*short, strict=True)]
    if sum(widths) + 2 * len(widths) > room:
        yield from _stacked(rows, room)
        return
    for row in short:
        cells = [
            f"{cell:{'<' if at < 2 else '>'}{width}}"
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()


def _stacked(rows: Sequence[Sequence[str]], room: int) -> Iterator[str]:
    """Yield a table whose columns do not fit, one cell behind another."""
    (_, *heads), *rest = rows
    for name, *cells in rest:
        yield f"  {cut(clean(name), room - 2)}"
        said = ", ".join(f"{head} {cell}" for head, cell in zip(heads, cells, strict=True) if cell)
        yield from _wrapped(said, room, "    ")


def _grids(told: Explained, room: int, pen: Pen) -> Iterator[Iterator[str]]:
    for forward in told.forwards:
        title = f"{forward.title} sees: {forward.attention}"
        yield _titled_grid(title, print_grid(forward, room, pen), room, pen)
    if told.forwards:
        legend = f"{TOKEN} sees it, {MASK} sees a mask, {UNSEEN} does not"
        if any("part" in line.cached for each in told.forwards for line in each.grid.lines):
            legend += f", {PART} sees a part"
        if told.promise.exact:
            legend += "; ✓ the proof rests on this row"
        if any(line.wrong is not None for each in told.forwards for line in each.grid.lines):
            legend += f"; {WRONG} a mistake names this row, and what it sees there"
        yield iter(_wrapped(f"{legend}; +n is the position behind the cache", room))


def _titled_grid(title: str, lines: Iterable[str], room: int, pen: Pen) -> Iterator[str]:
    first, *others = _wrapped(title, room)
    yield pen.paint(first, "1")
    yield from others
    yield from lines


def _wrapped(text: str, room: int, pad: str = "", hang: str = "  ") -> list[str]:
    return wrap(
        clean(text), room, initial_indent=pad, subsequent_indent=pad + hang, break_on_hyphens=False
    ) or [""]
