"""A region as boxes and arrows in characters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from nldc.explain.layers import Layers, Net, Spot, placed
from nldc.explain.model import Box, Region
from nldc.explain.paint import COLORS, Pen, clean, cut

LEAST = 9
GAP = 2
LANE = 3
UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
LINES = {
    UP | DOWN: "│", LEFT | RIGHT: "─", DOWN | RIGHT: "╭", DOWN | LEFT: "╮", UP | RIGHT: "╰",
    UP | LEFT: "╯", UP | DOWN | RIGHT: "├", UP | DOWN | LEFT: "┤", DOWN | LEFT | RIGHT: "┬",
    UP | LEFT | RIGHT: "┴", UP | DOWN | LEFT | RIGHT: "┼", UP: "│", DOWN: "│", LEFT: "─",
    RIGHT: "─",
}  # fmt: skip


def print_boxes(region: Region, room: int, pen: Pen) -> Iterator[str]:
    """Yield the lines of a region's picture in so many columns; where they are too few, a list."""
    boxes = {box.name: box for box in region.boxes}
    widths = {name: float(_width(box, room)) for name, box in boxes.items()}
    edges = [(edge.source, edge.target) for edge in region.edges]
    layers = placed(widths, edges, room=room, gap=GAP, lane=LANE)
    picture = _Picture(boxes, pen)
    if layers.width > room or _overlaps(layers) or not picture.draw(layers):
        yield from _listed(region, room, pen)
    else:
        yield from picture.lines()
    if region.left:
        yield f"... and {region.left} more, which are not drawn"


def _width(box: Box, room: int) -> int:
    wide = max(len(clean(box.title)) + 5, len(clean(box.detail)) + 4, LEAST)
    return min(wide, room)


def _overlaps(layers: Layers) -> bool:
    return any(
        one.x + one.width > other.x for rank in layers.ranks for one, other in pairwise(rank)
    )


def _listed(region: Region, room: int, pen: Pen) -> Iterator[str]:
    """Yield a line a box, with the boxes that it reads."""
    titles = {box.name: clean(box.title) for box in region.boxes}
    for box in region.boxes:
        reads = [titles[edge.source] for edge in region.edges if edge.target == box.name]
        text = f"{clean(box.detail)}{' < ' if reads else ''}{', '.join(reads)}"
        name = cut(titles[box.name], room)
        yield f"{pen.paint(name, COLORS[box.sort])}  {cut(text, max(room - len(name) - 2, 8))}"


class _Picture:
    """Characters at places, each with its colour, and lines as the directions that they go."""

    def __init__(self, boxes: Mapping[str, Box], pen: Pen) -> None:
        self.boxes = boxes
        self.pen = pen
        self.characters: dict[tuple[int, int], tuple[str, str]] = {}
        self.ways: dict[tuple[int, int], int] = {}
        self.height = 0

    def draw(self, layers: Layers) -> bool:
        """Draw all; False where an edge finds no column of its own."""
        y = 0
        ports: dict[int, int] = {}
        for number, rank in enumerate(layers.ranks):
            for at, spot in enumerate(rank):
                if spot.lane:
                    for step in range(3):
                        self._way(ports[at], y + step, UP | DOWN)
                else:
                    self._box(self.boxes[spot.name], spot, y)
            y += 3
            if number == len(layers.nets):
                break
            nets = layers.nets[number]
            starts = {
                net.source: ports[net.source]
                if rank[net.source].lane
                else int(rank[net.source].x + rank[net.source].width // 2)
                for net in nets
            }
            ends = _ends(nets, starts, layers.ranks[number + 1])
            if ends is None:
                return False
            ports = {at: x for (_, at), x in ends.items() if layers.ranks[number + 1][at].lane}
            y = self._channel(nets, starts, ends, rank, layers.ranks[number + 1], y)
        self.height = y
        return True

    def _channel(
        self,
        nets: Sequence[Net],
        starts: Mapping[int, int],
        ends: Mapping[tuple[int, int], int],
        above: Sequence[Spot],
        below: Sequence[Spot],
        y: int,
    ) -> int:
        """Draw the nets between two ranks, and return where the next one begins."""
        tracks: list[list[tuple[int, int]]] = []
        rows: dict[int, int] = {}
        for net in nets:
            columns = [starts[net.source], *(ends[net.source, at] for at in net.targets)]
            low, high = min(columns), max(columns)
            if low == high:
                continue
            track = 0
            while track < len(tracks) and any(
                a <= high + 1 and low - 1 <= b for a, b in tracks[track]
            ):
                track += 1
            if track == len(tracks):
                tracks.append([])
            tracks[track].append((low, high))
            rows[net.source] = track
        bottom = y + len(tracks)
        for net in nets:
            x = starts[net.source]
            if not above[net.source].lane:
                self.characters[x, y - 1] = ("┬", COLORS[self.boxes[above[net.source].name].sort])
            turn = y + rows.get(net.source, 0)
            self._down(x, y, turn if net.source in rows else bottom + 1)
            for at in net.targets:
                end = ends[net.source, at]
                if net.source in rows:
                    self._across(min(x, end), max(x, end), turn)
                    self._way(x, turn, UP)
                    self._down(end, turn + 1, bottom + 1)
                    self._way(end, turn, DOWN)
                if not below[at].lane:
                    self.characters[end, bottom] = ("▼", "")
        return bottom + 1

    def _down(self, x: int, start: int, stop: int) -> None:
        for y in range(start, stop):
            self._way(x, y, UP | DOWN)

    def _across(self, low: int, high: int, y: int) -> None:
        for x in range(low, high + 1):
            self._way(x, y, (LEFT if x > low else 0) | (RIGHT if x < high else 0))

    def _way(self, x: int, y: int, ways: int) -> None:
        self.ways[x, y] = self.ways.get((x, y), 0) | ways

    def _box(self, box: Box, spot: Spot, y: int) -> None:
        left, width, color = int(spot.x), int(spot.width), COLORS[box.sort]
        title = cut(clean(box.title), width - 5)
        detail = cut(clean(box.detail), width - 4)
        top = f"╭ {title} {'─' * (width - 4 - len(title))}╮"
        for x, character in enumerate(top):
            inside = 2 <= x < 2 + len(title)
            self._put(left + x, y, character, f"1;{color}" if inside else color)
        for x, character in enumerate(f"│ {detail:{width - 4}} │"):
            self._put(left + x, y + 1, character, color if x in (0, width - 1) else "")
        for x, character in enumerate(f"╰{'─' * (width - 2)}╯"):
            self._put(left + x, y + 2, character, color)

    def _put(self, x: int, y: int, character: str, color: str) -> None:
        if (x, y) not in self.characters:
            self.characters[x, y] = (character, color)

    def lines(self) -> Iterator[str]:
        """Yield the picture line by line."""
        for y in range(self.height):
            row = {x: LINES[ways] for (x, at), ways in self.ways.items() if at == y}
            cells = {x: (c, "2") for x, c in row.items()}
            cells |= {x: each for (x, at), each in self.characters.items() if at == y}
            yield self.pen.runs(cells.get(x, (" ", "")) for x in range(max(cells, default=-1) + 1))


def _ends(
    nets: Sequence[Net], starts: Mapping[int, int], below: Sequence[Spot]
) -> dict[tuple[int, int], int] | None:
    """Return the column in which each edge reaches its spot, no two in one, and none in the column
    in which another net begins; None where there are too few.
    """
    found: dict[tuple[int, int], int] = {}
    for at, spot in enumerate(below):
        sources = sorted((net.source for net in nets if at in net.targets), key=starts.__getitem__)
        low, high = int(spot.x), int(spot.x + spot.width) - 1
        if not spot.lane:
            low, high = low + 1, high - 1
        taken: set[int] = set()
        for source in sources:
            others = {x for each, x in starts.items() if each != source} | taken
            free = [x for x in range(low, high + 1) if x not in others]
            if not free:
                return None
            middle = (low + high) // 2
            nearest = starts[source] if low <= starts[source] <= high or not spot.lane else middle
            x = min(free, key=lambda each: (abs(each - nearest), each))
            found[source, at] = x
            taken |= {x, x + 1, x - 1}
    return found
