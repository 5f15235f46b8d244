"""The graph of a strategy as SVG: a picture for documents, and the same inside a page."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from nldc.explain.layers import Layers, Spot, placed
from nldc.explain.model import Box, Explained, Region
from nldc.explain.paint import cut, visible

ROOM, EDGE, GAP, LANE = 860.0, 24.0, 18.0, 18.0
HIGH, BETWEEN, HEAD, BEHIND, BESIDE = 46.0, 34.0, 28.0, 30.0, 44.0
LETTER, SIDE, LEAST, LONGEST, LONGEST_TITLE = 7.25, 24.0, 84.0, 44, 90

STYLE = """
svg { --paper: #ffffff; --ink: #1d1c1a; --soft: #66625b; --edge: #8d877b; --box: #ffffff;
  --given: #8d877b; --rows: #23808f; --forward: #2f62b5; --choice: #97700f; --accept: #2f7d40;
  --loop: #8a4fa8; --other: #66625b; --out: #8d877b; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #16171a; --ink: #e8e6e1; --soft: #a19c92; --edge: #7c7e86; --box: #1e2024;
    --given: #8b8d95; --rows: #63bccb; --forward: #86aef2; --choice: #dcb152; --accept: #6cc081;
    --loop: #c896e2; --other: #a19c92; --out: #8b8d95; }
}
.paper { fill: var(--paper); }
text { font: 12px ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; fill: var(--ink); }
.name { font-weight: 600; }
.region { font-weight: 600; font-size: 13px; }
.detail, .more { fill: var(--soft); }
.box rect { fill: var(--box); stroke-width: 1.5; }
.wire { fill: none; stroke: var(--edge); stroke-width: 1.3; }
.tip { fill: var(--edge); }
.given rect, .out rect { stroke-dasharray: 4 3; }
"""
SORTS = ("given", "rows", "forward", "choice", "accept", "loop", "other", "out")


def print_svg(told: Explained) -> str:
    """Return the picture as a file of its own, which follows the reader's light or dark."""
    body, width, height = _packed(told)
    style = STYLE + "".join(f".{sort} rect {{ stroke: var(--{sort}); }}\n" for sort in SORTS)
    title = escape(visible(f"{told.name}: {told.summary}"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" '
        f'width="{_n(width)}" height="{_n(height)}" role="img" '
        f'aria-labelledby="title desc">\n'
        f'<title id="title">{title}</title>\n'
        f'<desc id="desc">{escape(visible(_described(told)))}</desc>\n'
        f"<style>{style}</style>\n"
        f'<rect class="paper" width="{_n(width)}" height="{_n(height)}"/>\n'
        f"{body}</svg>\n"
    )


def pictures(told: Explained, *, linked: bool = False) -> Iterator[tuple[str, float, float]]:
    """Yield each region's elements without their styles, their width and their height.

    If `linked`, boxes can be reached by keys, and say where in the files they stand.
    """
    for region in told.regions:
        yield _region(region, linked=linked)


def _packed(told: Explained) -> tuple[str, float, float]:
    """Return all regions, side by side where there is room, and what they take."""
    parts, x, y, high, width = [], EDGE, EDGE, 0.0, 0.0
    for text, wide, tall in pictures(told):
        if x > EDGE and x + wide > ROOM + EDGE:
            x, y, high = EDGE, y + high + BEHIND, 0.0
        parts.append(f'<g transform="translate({_n(x)} {_n(y)})">\n{text}</g>\n')
        width, high = max(width, x + wide), max(high, tall)
        x += wide + BESIDE
    return "".join(parts), width + EDGE, y + high + EDGE


def _described(told: Explained) -> str:
    parts = []
    for region in told.regions:
        titles = {box.name: box.title for box in region.boxes}
        ways = [f"{titles[edge.source]} to {titles[edge.target]}" for edge in region.edges]
        parts.append(f"{region.title}: {'; '.join(ways)}.")
    return cut(" ".join([f"{told.promise.text}.", *parts]), 4000)


def _region(region: Region, *, linked: bool) -> tuple[str, float, float]:
    boxes = {box.name: box for box in region.boxes}
    widths = {name: _width(box) for name, box in boxes.items()}
    edges = [(edge.source, edge.target) for edge in region.edges]
    layers = placed(widths, edges, room=ROOM, gap=GAP, lane=LANE)
    title = cut(visible(region.title), LONGEST_TITLE)
    lines = [f'<text class="region" x="1" y="12">{escape(title)}</text>\n', *_wires(layers)]
    for number, rank in enumerate(layers.ranks):
        y = HEAD + number * (HIGH + BETWEEN)
        lines += [_box(boxes[each.name], each, y, linked=linked) for each in rank if not each.lane]
    bottom = HEAD + len(layers.ranks) * (HIGH + BETWEEN) - BETWEEN + 1
    if region.left:
        bottom += 20
        said = f"and {region.left} more, which are not drawn"
        lines.append(f'<text class="more" x="1" y="{_n(bottom - 4)}">{said}</text>\n')
    return "".join(lines), max(layers.width, len(title) * LETTER * 1.15) + 2, bottom


def _width(box: Box) -> float:
    letters = max(len(cut(visible(text), LONGEST)) for text in (box.title, box.detail))
    return float(max(round(letters * LETTER + SIDE), LEAST))


def _box(box: Box, spot: Spot, y: float, *, linked: bool) -> str:
    x = 1 + spot.x
    title, detail = (escape(cut(visible(text), LONGEST)) for text in (box.title, box.detail))
    return (
        f'<g class="box {box.sort}"{_link(box) if linked else ""}>'
        f"<title>{escape(visible(box.text))}</title>"
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(spot.width)}" height="{_n(HIGH)}" rx="6"/>'
        f'<text class="name" x="{_n(x + 12)}" y="{_n(y + 19)}">{title}</text>'
        f'<text class="detail" x="{_n(x + 12)}" y="{_n(y + 36)}">{detail}</text></g>\n'
    )


def _link(box: Box) -> str:
    place = box.place
    lines = "" if place is None else f' data-place="{place.file},{place.first},{place.last}"'
    return f' tabindex="-1" role="img" aria-label="{escape(visible(box.text))}"{lines}'


def _wires(layers: Layers) -> Iterator[str]:
    """Yield the edges, piece by piece: curves between ranks, lines where one passes a rank."""
    for number, nets in enumerate(layers.nets):
        y = HEAD + number * (HIGH + BETWEEN)
        above, below = layers.ranks[number], layers.ranks[number + 1]
        arriving: dict[int, list[int]] = {}
        for net in nets:
            for at in net.targets:
                arriving.setdefault(at, []).append(net.source)
        for net in nets:
            start = 1 + above[net.source].middle
            for at in net.targets:
                end = 1 + _port(below[at], net.source, arriving[at], above)
                yield _curve(start, y + HIGH, end, y + HIGH + BETWEEN, tip=not below[at].lane)
    for number, rank in enumerate(layers.ranks):
        y = HEAD + number * (HIGH + BETWEEN)
        for spot in rank:
            if spot.lane:
                x = _n(1 + spot.middle)
                yield f'<path class="wire" d="M{x} {_n(y)}V{_n(y + HIGH)}"/>\n'


def _port(spot: Spot, source: int, sources: list[int], above: tuple[Spot, ...]) -> float:
    """Return where an edge reaches a spot: edges from the left on its left."""
    ordered = sorted(sources, key=lambda each: above[each].middle)
    share = spot.width / (len(ordered) + 1)
    return spot.x + share * (ordered.index(source) + 1)


def _curve(x: float, y: float, to_x: float, to_y: float, *, tip: bool) -> str:
    stop = to_y - 6 if tip else to_y
    half = (y + stop) / 2
    path = f"M{_n(x)} {_n(y)}C{_n(x)} {_n(half)} {_n(to_x)} {_n(half)} {_n(to_x)} {_n(stop)}"
    text = f'<path class="wire" d="{path}"/>\n'
    if tip:
        head = f"M{_n(to_x - 4)} {_n(stop)}h8L{_n(to_x)} {_n(to_y)}z"
        text += f'<path class="tip" d="{head}"/>\n'
    return text


def _n(number: float) -> str:
    """Return a length with no more figures than it needs."""
    return f"{number:.1f}".removesuffix(".0")
