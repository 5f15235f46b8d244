"""Plots as plain SVG, made of numbers alone: lines and marks over two axes.

Colours are classes (`c0` to `c7`), so that a page's style sets them, in light and in dark. Labels
of marks stand where they cover nothing; where there is no such place, a mark has its tip alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 320
LEFT, RIGHT, TOP, BOTTOM = 54, 16, 14, 46
COLOURS = 8
CHARACTER, LINE = 6.1, 12
"""Pixels of a label's character, and of its height."""
TICKS = 6
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Axis:
    """What is laid off: its label; in powers if `log`, else from 0 if `from_zero`."""

    label: str
    log: bool = False
    from_zero: bool = False


@dataclass(frozen=True)
class Mark:
    """A point. `shape` is dot, ring or square; `tip` says all of it; `spread` is of y."""

    x: float
    y: float
    tip: str
    label: str = ""
    colour: int = 0
    shape: str = "dot"
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Line:
    """Points that are joined, in steps if `steps`; `faint` ones only lead the eye."""

    points: tuple[tuple[float, float], ...]
    tip: str
    colour: int = 0
    dashed: bool = False
    steps: bool = False
    faint: bool = False


def plot(
    title: str, x: Axis, y: Axis, lines: Sequence[Line] = (), marks: Sequence[Mark] = ()
) -> str:
    """Return an SVG element. All numbers are finite; on a log axis they are above 0.

    Raises:
        ValueError: there is nothing to draw.
    """
    xs = [mark.x for mark in marks] + [each[0] for line in lines for each in line.points]
    ys = [mark.y for mark in marks] + [each[1] for line in lines for each in line.points]
    ys += [end for mark in marks for end in mark.spread or ()]
    across = _Scale(x, xs, LEFT, WIDTH - RIGHT)
    up = _Scale(y, ys, HEIGHT - BOTTOM, TOP)
    parts = [*_frame(x, y, across, up)]
    parts += [_line(each, across, up) for each in lines]
    parts += [_mark(each, across, up) for each in marks]
    parts += _labels(marks, across, up)
    inside = "\n".join(parts)
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">\n{inside}\n</svg>'
    )


class _Scale:
    """From numbers to pixels, with the ticks that lie between the ends."""

    def __init__(self, axis: Axis, values: Sequence[float], begin: float, end: float) -> None:
        if not values:
            raise ValueError("there is nothing to draw")
        self._axis, self._begin, self._end = axis, begin, end
        low, high = min(values), max(values)
        if axis.log:
            self.ticks = _powers(low, high)
            self._low, self._high = (
                self._at(min(low, self.ticks[0])),
                self._at(max(high, self.ticks[-1])),
            )
            if self._low == self._high:
                self._low, self._high = self._low - 1, self._high + 1
            return
        if axis.from_zero:
            low = min(0.0, low)
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        high += room
        if not (axis.from_zero and low == 0):
            low -= room
        self._low, self._high = low, high
        self.ticks = _rounded(low, high)

    def _at(self, value: float) -> float:
        return math.log2(value) if self._axis.log else value

    def __call__(self, value: float) -> float:
        share = (self._at(value) - self._low) / (self._high - self._low)
        return round(self._begin + share * (self._end - self._begin), 1)


def _rounded(low: float, high: float) -> list[float]:
    """Return round numbers from `low` to `high`."""
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Return powers of 2 around `low` and `high`, every second or more if there are many."""
    first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
    step = max(1, -(-(last - first) // TICKS))
    return [2.0**power for power in range(first, last + step, step)]


def shown(value: float) -> str:
    """Return a number as ticks have it."""
    if value == round(value) and abs(value) < 1e6:
        return str(round(value))
    return f"{value:.3g}"


def _frame(x: Axis, y: Axis, across: _Scale, up: _Scale) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in up.ticks:
        place = up(tick)
        yield f'<path class="grid" d="M{LEFT} {place}H{right}"/>'
        yield _text("tick", LEFT - 6, place + 4, shown(tick), "end")
    for tick in across.ticks:
        place = across(tick)
        yield f'<path class="grid" d="M{place} {TOP}V{bottom}"/>'
        yield _text("tick", place, bottom + 16, shown(tick), "middle")
    yield f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>'
    yield _text("label", (LEFT + right) / 2, HEIGHT - 8, x.label, "middle")
    height = (TOP + bottom) / 2
    yield f'<g transform="translate(13 {height}) rotate(-90)">'
    yield _text("label", 0, 0, y.label, "middle") + "</g>"


def _text(name: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text class="{name}" {place}>{escape(text)}</text>'


def _line(line: Line, across: _Scale, up: _Scale) -> str:
    places = [(across(x), up(y)) for x, y in line.points]
    path = f"M{places[0][0]} {places[0][1]}"
    for x, y in places[1:]:
        path += f"H{x}V{y}" if line.steps else f"L{x} {y}"
    names = ["line", f"c{line.colour % COLOURS}"]
    names += [name for name in ("dashed", "faint") if getattr(line, name)]
    return f'<path class="{" ".join(names)}" d="{path}"><title>{escape(line.tip)}</title></path>'


def _mark(mark: Mark, across: _Scale, up: _Scale) -> str:
    x, y = across(mark.x), up(mark.y)
    name = f"mark {mark.shape} c{mark.colour % COLOURS}"
    if mark.shape == "square":
        form = f'<rect x="{x - 4.5}" y="{y - 4.5}" width="9" height="9"/>'
    else:
        form = f'<circle cx="{x}" cy="{y}" r="4.5"/>'
    bar = ""
    if mark.spread is not None:
        low, high = map(up, mark.spread)
        bar = f'<path class="spread" d="M{x} {low}V{high}"/>'
    return f'<g class="{name}"><title>{escape(mark.tip)}</title>{bar}{form}</g>'


def _labels(marks: Sequence[Mark], across: _Scale, up: _Scale) -> Iterator[str]:
    """Yield labels at places where they cover neither a mark nor each other."""
    places = [(across(mark.x), up(mark.y)) for mark in marks]
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
    for mark, (x, y) in zip(marks, places, strict=True):
        width = CHARACTER * len(mark.label)
        for left, middle in (
            (x + 8, y), (x - 8 - width, y), (x - width / 2, y - 13), (x - width / 2, y + 13),
            (x + 6, y - 10), (x + 6, y + 10), (x - 6 - width, y - 10), (x - 6 - width, y + 10),
        ):  # fmt: skip
            box = (left, middle - LINE / 2, left + width, middle + LINE / 2)
            if mark.label and _is_free(box, taken):
                taken.append(box)
                yield _text("named", round(left, 1), round(middle + 4, 1), mark.label)
                break


def _is_free(box: Box, taken: Sequence[Box]) -> bool:
    left, top, right, bottom = box
    if left < LEFT or right > WIDTH or top < 0 or bottom > HEIGHT - BOTTOM:
        return False
    return not any(
        left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
        for other in taken
    )


def legend(items: Sequence[tuple[str, int, str]]) -> str:
    """Return a list of (name, colour, kind), where a kind is a mark's shape, `line` or `dashed`."""
    lines = [
        f'<li><svg class="key" viewBox="0 0 22 12" aria-hidden="true">{_key(colour, kind)}</svg>'
        f"{escape(name)}</li>"
        for name, colour, kind in items
    ]
    return f'<ul class="legend">{"".join(lines)}</ul>'


def _key(colour: int, kind: str) -> str:
    name = f"c{colour % COLOURS}"
    if kind in ("line", "dashed"):
        dashed = " dashed" if kind == "dashed" else ""
        return f'<path class="line {name}{dashed}" d="M1 6H21"/>'
    form = '<circle cx="11" cy="6" r="4.5"/>'
    if kind == "square":
        form = '<rect x="6.5" y="1.5" width="9" height="9"/>'
    return f'<g class="mark {kind} {name}">{form}</g>'
