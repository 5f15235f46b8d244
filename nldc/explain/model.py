"""All that is told of a strategy, as plain data: who prints it reads this and decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Sort = Literal["given", "rows", "forward", "choice", "accept", "loop", "other", "out"]
"""What a box is, for its colour: what comes in, rows laid, a forward, what reads logits, an accept,
a loop, another op, what goes out.
"""
Sight = Literal["all", "none", "part"]


@dataclass(frozen=True)
class Place:
    """Lines of one of the strategy's files, from 1 on; `file` is its number among them."""

    file: int
    first: int
    last: int


@dataclass(frozen=True)
class Reason:
    """One part of the promise: what it is called, why it holds or does not, and what it rests on.

    `name` is the obligation's, or an error's code; `formal` is how the certificate says it, and
    `brief` what of `rests` a short text names.
    """

    name: str
    text: str
    rests: tuple[str, ...] = ()
    brief: tuple[str, ...] = ()
    formal: str = ""


@dataclass(frozen=True)
class Promise:
    """What is promised, in one line, and why it holds, or why it does not."""

    exact: bool
    claimed: str
    text: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Box:
    """A node of a graph, or what comes into a region or goes out of it.

    `text` is the whole of it as the graph prints it; `whole` its full name, and `place` where it
    stands in the files.
    """

    name: str
    title: str
    sort: Sort
    detail: str
    text: str
    place: Place | None = None


@dataclass(frozen=True)
class Edge:
    """A value that goes from one box to another."""

    source: str
    target: str


@dataclass(frozen=True)
class Region:
    """The prefill, a step, or the body of a loop, in the order in which it runs.

    `plain` where a loop is written as one op in the file, and its body is the language's own;
    `left` boxes are not drawn.
    """

    name: str
    title: str
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    plain: bool = False
    left: int = 0


@dataclass(frozen=True)
class Wrong:
    """What a mistake names of a line: what it sees in the cache, and of the grid's `lines`."""

    cached: bool
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Line:
    """One row of a forward, or several that are alike: rows `first` to `last`.

    `position` is that of the first, from the end of the cache, and positions of the others follow.
    `kind` is its label, or else `token`, `mask`, or `filled`: laid as a mask, and perhaps filled.
    `cached` says what it sees of each of the grid's columns of the cache, `sees` the lines that it
    sees as ranges, both ends included. `needed` where the proof rests on it, which `why` tells;
    `wrong` where a mistake names it.
    """

    first: int
    last: int
    kind: str
    masked: bool
    position: int
    cached: tuple[Sight, ...]
    sees: tuple[tuple[int, int], ...]
    adapted: bool
    stays: bool
    needed: bool
    why: tuple[str, ...]
    wrong: Wrong | None = None


@dataclass(frozen=True)
class Grid:
    """Who sees whom in a forward; `note` says what of it is not drawn, if something is not."""

    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    note: str = ""


@dataclass(frozen=True)
class Cost:
    """What a forward, a head or a step takes on a device: how often, and seconds each time."""

    name: str
    title: str
    what: Literal["forward", "head", "step"]
    rows: int
    times: float
    floor: float
    predicted: float


@dataclass(frozen=True)
class Forward:
    """One forward: its rows by kinds, their positions, who sees whom.

    `title` is its name where the step goes without saying. `size` are its rows, and `kinds` those
    of each kind, which may depend on the prompt's length; `rows` are those of the grid. `repeats`
    are the rounds of the loop that it is in, at most.
    """

    name: str
    title: str
    size: str
    rows: int
    kinds: tuple[tuple[str, str], ...]
    positions: tuple[int, int]
    attention: str
    adapter: str | None
    repeats: int
    grid: Grid
    place: Place | None


@dataclass(frozen=True)
class Step:
    """A step, or the prefill: what it counts, in words, and what it costs if a device is named."""

    name: str
    counts: str
    costs: tuple[Cost, ...] = ()
    total: Cost | None = None


@dataclass(frozen=True)
class Setting:
    """The device and the model that costs are for, in words, and what follows from them."""

    text: str
    speed: tuple[str, ...]


@dataclass(frozen=True)
class Printed:
    """A line of text, and the lines of the strategy's files that it comes from."""

    text: str
    places: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Text:
    """A file: one of the strategy's, the program, or one that is generated."""

    name: str
    lines: tuple[Printed, ...]


@dataclass(frozen=True)
class Explained:
    """A strategy, explained. `files` are its own, the one that was asked for first."""

    name: str
    summary: str
    uses: tuple[str, ...]
    params: tuple[tuple[str, str], ...]
    promise: Promise
    notes: tuple[str, ...]
    regions: tuple[Region, ...]
    forwards: tuple[Forward, ...]
    steps: tuple[Step, ...]
    setting: Setting | None
    files: tuple[Text, ...]
    program: Text
    code: tuple[Text, ...]


def ranges(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return ascending numbers as ranges, both ends included."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)


def in_words(numbers: Sequence[int], noun: str = "row") -> str:
    """Return ascending numbers as text: `row 3`, `rows 0-15, 20`."""
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in ranges(numbers)]
    return f"{noun}{'' if len(numbers) == 1 else 's'} {', '.join(parts)}"


def kinds_in_words(kinds: Sequence[tuple[str, str]]) -> str:
    """Return how many rows of each kind there are as text: `1 token, 15 mask`."""
    return ", ".join(
        "the prompt" if number == "prompt" else f"{number} {kind}" for kind, number in kinds
    )
