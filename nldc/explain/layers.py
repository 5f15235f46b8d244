"""Where the boxes of a region lie: in ranks from top to bottom, and the ways of edges between them.

Lengths are of any unit: characters in a terminal, pixels in a picture. An edge that passes a rank
has a lane in it; edges from one box share theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Name = str | tuple[str, int]
"""A box, or the lane of a box's edges in a rank."""
SWEEPS = 4


@dataclass(frozen=True)
class Spot:
    """A box, or with `lane` the lane of `name`'s edges, from `x` on."""

    name: str
    x: float
    width: float
    lane: bool = False

    @property
    def middle(self) -> float:
        """Its middle."""
        return self.x + self.width / 2


@dataclass(frozen=True)
class Net:
    """What goes from one spot of a rank to spots of the next: numbers of spots in their ranks."""

    source: int
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Layers:
    """Ranks of spots from left to right, and between each two the nets."""

    ranks: tuple[tuple[Spot, ...], ...]
    nets: tuple[tuple[Net, ...], ...]

    @property
    def width(self) -> float:
        """How wide it is."""
        return max((spot.x + spot.width for rank in self.ranks for spot in rank), default=0)


def placed(
    widths: Mapping[str, float],
    edges: Iterable[tuple[str, str]],
    *,
    room: float,
    gap: float,
    lane: float,
) -> Layers:
    """Return where boxes lie that come in the order in which they run, each edge downwards.

    A rank is no wider than `room` if a box and the lanes beside it are not.
    """
    place = {name: number for number, name in enumerate(widths)}
    pairs = [(a, b) for a, b in edges if a in place and b in place and place[a] < place[b]]
    rank_of = _ranked(widths, pairs, room, gap, lane)
    height = max(rank_of.values(), default=-1) + 1
    ranks: list[list[Name]] = [[] for _ in range(height)]
    for box in widths:
        ranks[rank_of[box]].append(box)
    last: dict[str, int] = {}
    for source, target in pairs:
        last[source] = max(last.get(source, 0), rank_of[target])
    for source, end in last.items():
        for passed in range(rank_of[source] + 1, end):
            ranks[passed].append((source, passed))
    links = _links(pairs, rank_of)
    size = {
        name: lane if isinstance(name, tuple) else widths[name] for rank in ranks for name in rank
    }
    x = _spread(ranks, links, size, room, gap)
    spots = tuple(tuple(_spot(name, x[name], size[name]) for name in rank) for rank in ranks)
    number = {name: at for rank in ranks for at, name in enumerate(rank)}
    nets = []
    for rank in ranks[:-1]:
        found = []
        for name in rank:
            targets = sorted(number[b] for a, b in links if a == name)
            if targets:
                found.append(Net(number[name], tuple(targets)))
        nets.append(tuple(found))
    return Layers(spots, tuple(nets))


def _spot(name: Name, x: float, width: float) -> Spot:
    if isinstance(name, tuple):
        return Spot(name[0], x, width, lane=True)
    return Spot(name, x, width)


def _ranked(
    widths: Mapping[str, float],
    pairs: Sequence[tuple[str, str]],
    room: float,
    gap: float,
    lane: float,
) -> dict[str, int]:
    """Return the rank of each box: as high as its inputs and the room let it, what comes in as low
    as its first use does.
    """
    before: dict[str, list[str]] = {name: [] for name in widths}
    after: dict[str, list[str]] = {name: [] for name in widths}
    for source, target in pairs:
        before[target].append(source)
        after[source].append(target)
    wanted: dict[str, int] = {}
    for name in widths:
        wanted[name] = max((wanted[each] + 1 for each in before[name]), default=0)
    for name in widths:
        if not before[name] and after[name]:
            wanted[name] = max(0, min(wanted[each] for each in after[name]) - 1)
    found: dict[str, int] = {}
    rank = 0
    while len(found) < len(widths):
        open_ = [n for n in found if any(each not in found for each in after[n])]
        used = 0.0
        for name in sorted((n for n in widths if n not in found), key=lambda n: wanted[n]):
            if wanted[name] > rank or any(found.get(each, rank) >= rank for each in before[name]):
                continue
            passing = sum(
                any(each not in found and each != name for each in after[n]) for n in open_
            )
            if used and used + gap + widths[name] + passing * (lane + gap) > room:
                continue
            found[name] = rank
            used += widths[name] + (gap if used else 0)
        rank += 1
    return found


def _links(pairs: Sequence[tuple[str, str]], rank_of: Mapping[str, int]) -> list[tuple[Name, Name]]:
    """Return the edges cut at ranks, each piece once."""
    found: dict[tuple[Name, Name], None] = {}
    for source, target in pairs:
        at: Name = source
        for rank in range(rank_of[source] + 1, rank_of[target]):
            found[at, (source, rank)] = None
            at = (source, rank)
        found[at, target] = None
    return list(found)


def _spread(
    ranks: list[list[Name]],
    links: Sequence[tuple[Name, Name]],
    size: Mapping[Name, float],
    room: float,
    gap: float,
) -> dict[Name, float]:
    """Order each rank so that few edges cross, and return where each spot begins."""
    up: dict[Name, list[Name]] = {}
    down: dict[Name, list[Name]] = {}
    for source, target in links:
        down.setdefault(source, []).append(target)
        up.setdefault(target, []).append(source)
    x: dict[Name, float] = {}
    for rank in ranks:
        _pack(rank, {}, size, room, gap, x)
    for sweep in range(SWEEPS):
        order = ranks if sweep % 2 == 0 else ranks[::-1]
        near = up if sweep % 2 == 0 else down
        for rank in order:
            wanted = {}
            for name in rank:
                others = near.get(name) or (*up.get(name, ()), *down.get(name, ()))
                middles = [x[each] + size[each] / 2 for each in others]
                wanted[name] = sum(middles) / len(middles) if middles else x[name] + size[name] / 2
            rank.sort(key=lambda name: wanted[name])
            _pack(rank, wanted, size, room, gap, x)
    left = min(x.values(), default=0)
    return {name: at - left for name, at in x.items()}


def _pack(
    rank: Sequence[Name],
    wanted: Mapping[Name, float],
    size: Mapping[Name, float],
    room: float,
    gap: float,
    x: dict[Name, float],
) -> None:
    """Put the spots of a rank where their middles are wanted, as far as there is room."""
    end = -gap
    for name in rank:
        begin = end + gap
        if name in wanted:
            begin = max(begin, round(wanted[name] - size[name] / 2))
        x[name] = begin
        end = begin + size[name]
    limit = room
    for name in reversed(rank):
        if x[name] + size[name] > limit:
            x[name] = max(0, limit - size[name])
        limit = x[name] - gap
