"""What each row of a traced run saw: which tokens at which positions, and what those saw in turn.

Of two rows that are alike in this, exact arithmetic computes the same. A row's `mark` is a digest
of its token, its position, whether it had an adapter, and of the marks of all rows that it saw but
itself, in order of their positions; so rows of a cache that were computed otherwise show, too. Rows
of one forward that see one another have the tokens of all of them in their marks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nldc.runtime.trace.tracer import Part, Ran, Traced


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a forward: `row` by the file's order, of the forward of node `node` in a step.

    The rows that it saw are the first `before` of `cached`, and of its own `forward` those at the
    places `own`, but it.
    """

    step: int
    node: str
    row: int
    token: int
    position: int
    adapter: str | None
    mark: bytes = b""
    cached: Sequence[Row] = field(default=(), repr=False)
    before: int = 0
    forward: Sequence[Row] = field(default=(), repr=False)
    own: tuple[int, ...] = ()

    @property
    def seen(self) -> list[Row]:
        """The rows that it saw, by their positions."""
        own = (self.forward[place] for place in self.own)
        return sorted((*self.cached[: self.before], *own), key=_position)


@dataclass
class Sights:
    """The rows of one sequence, step by step; `rows` has those of each step's forwards in order."""

    rows: dict[int, list[list[Row]]] = field(default_factory=dict)
    _cached: list[Row] = field(default_factory=list)
    _chain: list[bytes] = field(default_factory=lambda: [b""])
    _prompt: int = 0

    def add(self, traced: Traced, part: Part) -> None:
        """Add a step of the sequence."""
        from nldc.runtime.trace import tracer as t

        number = traced.record.number
        if part.prompt is not None:
            self._cached, self._chain = [], [b""]
            self._prompt = len(part.prompt)
        before = len(self._cached)
        cached, chain = self._cached, self._chain
        forwards: dict[int, list[Row]] = {}
        last: list[Row] = []
        for each in part.events:
            if isinstance(each, t.Ran):
                last = _rows(number, each, cached, chain, self._prompt)
                forwards[each.number] = last
                cached, chain = _grown(cached, chain, last[: each.layout.append])
            elif isinstance(each, t.Appended):
                cached, chain = _grown(cached, chain, last[: each.rows])
        appended = cached[before:]
        if part.path is not None:
            appended = [appended[row] for row in part.path]
        if part.keep is not None:
            appended = appended[: part.keep]
        self._cached, self._chain = _grown(
            self._cached[:before], self._chain[: before + 1], appended
        )
        width = max(forwards, default=-1) + 1
        self.rows[number] = [forwards.get(each, []) for each in range(width)]


def _grown(
    cached: list[Row], chain: list[bytes], rows: Iterable[Row]
) -> tuple[list[Row], list[bytes]]:
    """Return a cache with more rows behind it, and the digests of all its beginnings."""
    cached, chain = list(cached), list(chain)
    for row in rows:
        cached.append(row)
        chain.append(_digest(chain[-1], row.mark))
    return cached, chain


def _rows(step: int, ran: Ran, cached: list[Row], chain: list[bytes], prompt: int) -> list[Row]:
    """Return the rows of a forward behind a cache."""
    from nldc.runtime.rows.plan import in_order

    layout = ran.layout
    offsets, numbers = layout.offset.tolist(), layout.row.tolist()
    plain = [
        Row(
            step=step,
            node=ran.node,
            row=number,
            token=ran.tokens[place],
            position=ran.start + offsets[place],
            adapter=ran.adapter if ran.adapted and ran.adapted[place] else None,
        )
        for place, number in enumerate(numbers)
    ]
    if not in_order(layout, ran.pattern):
        return _marked(ran, plain, cached, chain, prompt)
    grown, link = list(cached), chain[-1]
    for each in plain:
        mark = _mark(each, link)
        grown.append(replace(each, mark=mark, cached=grown, before=len(grown)))
        link = _digest(link, mark)
    return grown[len(cached) :]


def _marked(
    ran: Ran, plain: Sequence[Row], cached: Sequence[Row], chain: Sequence[bytes], prompt: int
) -> list[Row]:
    """Return rows that see what their pattern says, each marked when those that it sees are."""
    from nldc.runtime.rows.pattern import visible

    behind, own = visible(ran.layout, ran.pattern, len(cached), prompt=prompt)
    sees = [
        [key for key, flag in enumerate(flags) if flag and key != query]
        for query, flags in enumerate(own.tolist())
    ]
    prefixes = behind.tolist()
    back = _looking_back(plain, sees)
    marks: dict[int, bytes] = {}
    behind_of: list[Sequence[Row]] = [
        cached if all(flags) else [one for one, flag in zip(cached, flags, strict=True) if flag]
        for flags in prefixes
    ]

    def marked(place: int) -> bytes:
        if place in marks:
            return marks[place]
        each, before = plain[place], behind_of[place]
        digest = chain[-1]
        if before is not cached:
            digest = _folded(b"", (one.mark for one in before))
        reached = set() if place in back else _reached(place, sees, back)
        if place in reached:
            told = sorted(
                (plain[key].position, plain[key].token, str(plain[key].adapter),
                 marked(key) if key in back else b"")
                for key in reached
            )  # fmt: skip
            marks[place] = _digest(b"ahead", _mark(each, digest), repr(told).encode())
        else:
            seen = sorted(sees[place], key=lambda key: plain[key].position)
            marks[place] = _mark(each, _folded(digest, map(marked, seen)))
        return marks[place]

    rows: list[Row] = []
    for place, each in enumerate(plain):
        before = behind_of[place]
        rows.append(
            replace(
                each,
                mark=marked(place),
                cached=before,
                before=len(before),
                forward=rows,
                own=tuple(sees[place]),
            )
        )
    return rows


def _looking_back(rows: Sequence[Row], sees: Sequence[Sequence[int]]) -> set[int]:
    """Return the rows that see only rows at smaller positions, and these too, and so on."""
    found: set[int] = set()
    for place in sorted(range(len(rows)), key=lambda place: rows[place].position):
        own = rows[place].position
        if all(rows[key].position < own and key in found for key in sees[place]):
            found.add(place)
    return found


def _reached(place: int, sees: Sequence[Sequence[int]], back: set[int]) -> set[int]:
    """Return the rows that a row sees, and those that these see, and so on; not what rows see that
    look `back`, since nothing leads from them to where this began.
    """
    found: set[int] = set()
    left = [place]
    while left:
        for key in sees[left.pop()]:
            if key not in found:
                found.add(key)
                if key not in back:
                    left.append(key)
    return found


def _folded(digest: bytes, marks: Iterable[bytes]) -> bytes:
    for mark in marks:
        digest = _digest(digest, mark)
    return digest


def _mark(row: Row, digest: bytes) -> bytes:
    return _digest(digest, f"{row.token} {row.position} {row.adapter}".encode())


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.digest()


def difference(one: Row, two: Row) -> tuple[Row | None, Row | None, int]:
    """Return the first rows that two rows with other marks saw which are not alike, and how many
    rows down they lie: the rows that those saw, and so on, until a token, a position or an adapter
    is another, or one of them saw what the other did not (None).
    """
    depth = 0
    been: set[tuple[int, int]] = set()
    while _alike(one, two) and (id(one), id(two)) not in been:
        been.add((id(one), id(two)))
        pairs = list(zip_longest(one.seen, two.seen))
        depth += 1
        for mine, other in pairs:
            if mine is None or other is None or not _alike(mine, other):
                return mine, other, depth
        apart = next((pair for pair in pairs if pair[0].mark != pair[1].mark), None)
        if apart is None:
            return one, two, depth - 1
        one, two = apart
    return one, two, depth


def _alike(one: Row, two: Row) -> bool:
    return (one.token, one.position, one.adapter) == (two.token, two.position, two.adapter)


def _position(row: Row) -> int:
    return row.position
