"""Which rows of the prefill are computed alike, and as AR computes them, at every prompt length.

The prefill can only be traced for some lengths. That these stand for all rests on what is decided
here: that the rows of the prompt (and each further row) lie where AR's do, see what AR's see, and
have the same adapter, prediction and place in the cache, however long the prompt is. Rows of which
that is not so have a `Flaw`, and the proof takes them for rows that are not AR's.

Decided means tried, at rows and lengths that stand for all (see docs/losslessness.md); what a row
sees is looked up for every key there is at that length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from nldc.check.lossless import codes
from nldc.check.lossless.lines import Lines, Sum, UntameError, between
from nldc.expr import Boolean, Expr, Ref
from nldc.ir.facts import LONGEST_CONTEXT, NO_KIND, pair_ranges, prefix_ranges, row_ranges
from nldc.ir.graph import Graph
from nldc.ir.layout import Layout, Row
from nldc.ir.ops import Forward, Node
from nldc.ir.ranges import Range, UndecidedError, evaluate_range

LONGEST = 2**18
"""Prompts that would have to be longer than this to decide a prefill are not tried."""
MOST_WORK = 5 * 10**7
"""Pairs of rows that are looked at for one forward; beyond that it is not decided."""
MOST_NEAR = 64
"""Rows from the start on that are all looked at where a truth depends on the sum of two."""
CHUNK = 2**20
"""Pairs of rows that are looked at at once."""
FULLY = 6
"""Up to this length every row of the prompt is looked at, so that short witnesses come first."""

Class = tuple[str, int, int]
"""Rows that are alike: of a node, a segment of it, and its row (-1: all of the segment's rows)."""


@dataclass(frozen=True)
class Flaw:
    """Why rows are not AR's at every length of the prompt: a code, a key of the node, a text."""

    code: str
    key: str
    text: str


@dataclass(frozen=True)
class Alike:
    """What was found: the flaws of rows, and of what stays in the cache."""

    flaws: Mapping[Class, Flaw]
    kept: Mapping[str, Flaw]


def class_of(node: str, layout: Layout, row: Row, prompt_length: int) -> Class:
    """Return the class of a row in a prompt of that length."""
    if not layout.dynamic:
        return node, 0, row.row
    segment = layout.segments[row.segment]
    if segment.sizes[0].prompts:
        return node, row.segment, -1
    before = sum(s.sizes[0].at(prompt_length) for s in layout.segments[: row.segment])
    return node, row.segment, row.row - before


def alike(graph: Graph) -> Alike:
    """Look at every forward of the prefill outside loops."""
    flaws: dict[Class, Flaw] = {}
    kept: dict[str, Flaw] = {}
    cached = _Cached()
    for node in graph.prefill.nodes:
        if not isinstance(node.op, Forward):
            continue
        looked = _Look(node, node.op, graph.kinds, cached)
        try:
            looked.run()
        except (UntameError, UndecidedError):
            text = "whether its rows are alike in prompts of every length cannot be decided"
            looked.all_flawed(Flaw(codes.UNDECIDED, _key(node.op), text))
        flaws |= looked.flaws
        if looked.keeps is not None:
            kept[node.name] = looked.keeps
        cached = cached.after(looked)
    return Alike(flaws, kept)


def _key(op: Forward) -> str:
    return "attention" if not isinstance(op.attention.predicate, Boolean) else "position"


@dataclass(frozen=True)
class _Cached:
    """How many rows the cache holds before a forward, and that row n of them lies at n."""

    fixed: int = 0
    prompts: int = 0
    in_place: bool = True

    def at(self, prompt_length: int) -> int:
        return self.fixed + self.prompts * prompt_length

    def after(self, look: _Look) -> _Cached:
        if look.appends is None:
            return _Cached(self.fixed, self.prompts, in_place=False)
        fixed, prompts, in_place = look.appends
        return _Cached(self.fixed + fixed, self.prompts + prompts, self.in_place and in_place)


@dataclass
class _Look:
    """One forward, looked at."""

    node: Node
    op: Forward
    kinds: tuple[str, ...]
    cached: _Cached
    flaws: dict[Class, Flaw] = field(default_factory=dict)
    keeps: Flaw | None = None
    appends: tuple[int, int, bool] | None = None
    work: int = 0

    @cached_property
    def layout(self) -> Layout:
        return self.op.layout

    @cached_property
    def fixed(self) -> int:
        """How many rows there are whatever the prompt."""
        if not self.layout.dynamic:
            return len(self.layout.rows())
        return sum(abs(segment.sizes[0].fixed) for segment in self.layout.segments)

    def run(self) -> None:
        """Find the flaws.

        Raises:
            UntameError: the rows that are tried do not stand for all.
            UndecidedError: an expression may have no value.
        """
        lines = Lines()
        position = lines.add_number(self.op.position, self._of_row)
        is_plain = not self.layout.dynamic or position.of == {"x": 1}
        self._lines(lines, position, attention=is_plain)
        expected: dict[Class, tuple[int, ...]] = {}
        counts: dict[int, int] = {}
        in_place = True
        for length in self._lengths(lines):
            facts = self._facts(length)
            values = {
                "offset": self._each(self.op.position, facts),
                "adapted": self._adapted(facts),
                "next": self._each(self.op.predicts_next, facts),
            }
            kept = np.flatnonzero(self._each(self.op.append, facts))
            counts[length] = len(kept)
            in_place &= bool(np.array_equal(values["offset"][kept], np.arange(len(kept))))
            if len(facts["row"]):
                self._steady(length, facts, values, expected)
                if is_plain:
                    self._looked_at(length, lines, facts, values["offset"])
        self._count(counts, in_place)
        if not is_plain:
            raise UntameError  # what rows see is not asked: no row of the prompt is AR's

    # What the rows are

    def _facts(self, length: int) -> dict[str, Any]:
        if not self.layout.dynamic:
            held = self.layout.rows()
            return {
                "row": np.array([row.row for row in held]),
                "group": np.array([row.group for row in held]),
                "index": np.array([row.index for row in held]),
                "kind": np.array([self._kind(row.kind) for row in held]),
                "masked": np.array([int(row.masked) for row in held]),
                "segment": np.array([0] * len(held)),
                "inside": np.array([row.row for row in held]),
                "prefix": np.zeros(len(held), dtype=np.int64),
            }
        sizes = [max(0, segment.sizes[0].at(length)) for segment in self.layout.segments]
        row = np.arange(sum(sizes))
        segments = self.layout.segments
        flags = [int(not segment.tokens) for segment in segments]
        inside = [
            np.full(size, -1) if segment.sizes[0].prompts else np.arange(size)
            for segment, size in zip(segments, sizes, strict=True)
        ]
        return {
            "row": row,
            "group": np.zeros_like(row),
            "index": row,
            "kind": np.repeat([self._kind(segment.kind) for segment in segments], sizes),
            "masked": np.repeat(flags, sizes),
            "segment": np.repeat(range(len(segments)), sizes),
            "inside": np.concatenate(inside),
            "prefix": np.zeros_like(row),
        }

    def _kind(self, kind: str | None) -> int:
        return NO_KIND if kind is None else self.kinds.index(kind)

    def _each(self, expr: Expr, facts: Mapping[str, Any]) -> Any:
        found = evaluate_range(expr, row_ranges(facts, self.kinds))
        return np.broadcast_to(found.low, facts["row"].shape).astype(np.int64)

    def _adapted(self, facts: Mapping[str, Any]) -> Any:
        if self.op.adapter is None:
            return np.zeros_like(facts["row"])
        return self._each(self.op.adapter_rows, facts)

    # Which rows and lengths stand for all

    def _of_row(self, ref: Ref) -> Sum:
        dynamic = self.layout.dynamic
        match ref.dotted:
            case "row" | "index" if dynamic:
                return between(0, 0, "x")
            case "group" if dynamic:
                return between(0, 0)
            case "row" | "index" | "group" | "masked":
                return between(0, self.fixed)
        return between(-1, len(self.kinds))

    def _lines(self, lines: Lines, position: Sum, *, attention: bool) -> None:
        """Add where a truth may change.

        Raises:
            UntameError: elsewhere too.
        """
        for expr in (self.op.append, self.op.predicts_next, self.op.adapter_rows):
            lines.add(expr, self._of_row)
        if not attention:
            return
        dynamic = self.layout.dynamic
        own = Sum({"y": Fraction(1)} if dynamic else {}, position.low, position.high)
        for key in (own,) if dynamic else (own, between(0, 0, "y")):

            def of_pair(ref: Ref, key: Sum = key) -> Sum:
                match ref.parts:
                    case ("q", "position"):
                        return position
                    case ("k", "position"):
                        return key
                    case ("k", "row" | "index") if dynamic:
                        return between(0, 0, "y")
                    case ("q" | "k", "row" | "index" | "group" as fact):
                        return self._of_row(Ref(fact))
                return between(-1, len(self.kinds))

            lines.add(self.op.attention.predicate, of_pair)
        if lines.near > MOST_NEAR:
            raise UntameError

    def _lengths(self, lines: Lines) -> list[int]:
        """Return the prompt lengths to look at, the shortest first.

        Raises:
            UntameError: they would be too long, or too many.
        """
        margin, crossings = lines.margin + self.fixed, lines.crossings
        longest = 2 * (crossings[-1] + margin) + FULLY
        if longest > LONGEST:
            raise UntameError
        # The shortest prompts in which a line shows come first, for the sake of what is said.
        found = {*range(1, FULLY + 1), *(v + s for v in crossings for s in (0, 1, 2)), longest}
        if self.layout.dynamic and len(self.layout.segments) > 1:
            found |= set(_around(crossings, margin))
        return sorted(length for length in found if 0 < length <= longest)

    def _queries(self, length: int, lines: Lines, facts: Mapping[str, Any]) -> Any:
        """Return the rows to look at: those around lines, counted from where segments begin."""
        rows = len(facts["row"])
        if not self.layout.dynamic or length <= FULLY:
            return np.arange(rows)
        margin = lines.margin + self.fixed
        near = np.array([*_around(lines.crossings, margin), *range(2 * lines.near + 1)])
        begins = np.flatnonzero(np.diff(facts["segment"])) + 1
        starts = [0, rows - 1, *begins]
        found = np.unique(np.concatenate([start + s * near for start in starts for s in (1, -1)]))
        return found[(found >= 0) & (found < rows)]

    # The flaws

    def _steady(
        self,
        length: int,
        facts: Mapping[str, Any],
        values: Mapping[str, Any],
        expected: dict[Class, tuple[int, ...]],
    ) -> None:
        """Note rows that are not like the others of their class, in this prompt or in shorter."""
        shift = values["offset"] - facts["row"] if self.layout.dynamic else values["offset"]
        wrong = (
            ("adapted", "adapter", codes.ADAPTED, ("without it", "with it")),
            ("next", "predicts", codes.PREDICTS_SELF, ("as predicting itself", "as predicting on")),
        )
        for one, places in self._classes(facts):
            first = places[0]
            flags = tuple(int(values[name][first]) for name in ("adapted", "next"))
            before = expected.setdefault(one, (*flags, int(shift[first])))
            for number, (name, key, code, how) in enumerate(wrong):
                odd = places[values[name][places] != before[number]]
                if len(odd):
                    what = how[1 - before[number]]
                    verb = "computed" if name == "adapted" else "read"
                    text = f"in a prompt of {length} tokens row {odd[0]} is {verb} {what}"
                    self._flaw(one, Flaw(code, key, f"{text}, and others are not"))
            odd = places[shift[places] != before[2]]
            if len(odd):
                offset = int(values["offset"][odd[0]])
                text = f"in a prompt of {length} tokens row {odd[0]} lies at offset {offset}"
                self._flaw(one, Flaw(codes.POSITION, "position", text))

    def _classes(self, facts: Mapping[str, Any]) -> Iterator[tuple[Class, Any]]:
        """Yield every class with its rows."""
        for segment in range(int(facts["segment"].max()) + 1):
            places = np.flatnonzero(facts["segment"] == segment)
            inside = facts["inside"][places]
            alone = inside >= 0
            if not alone.all():
                yield (self.node.name, segment, -1), places[~alone]
            for place in places[alone]:
                yield (self.node.name, segment, int(facts["inside"][place])), np.array([place])

    def _looked_at(self, length: int, lines: Lines, facts: Mapping[str, Any], offsets: Any) -> None:
        """Note rows that do not see what AR's row sees.

        Raises:
            UntameError: that would be too much to look at.
            UndecidedError: what a row sees has no value.
        """
        before = self.cached.at(length)
        keys = {**facts, "position": offsets}
        queries = self._queries(length, lines, facts)
        self.work += len(queries) * (len(offsets) + before)
        if self.work > MOST_WORK:
            raise UntameError
        places = np.concatenate((np.arange(before), before + offsets))
        if before and self.layout.dynamic:
            self._all_or_none(keys)
        step = max(1, CHUNK // len(places))
        for chunk in (queries[at : at + step] for at in range(0, len(queries), step)):
            query = {name: Range.exactly(value[chunk, None]) for name, value in keys.items()}
            seen = np.zeros((len(chunk), len(places)), dtype=bool)
            if before:
                behind = np.arange(-before, 0)[None, :]
                seen[:, :before] = self._asked(query, prefix_ranges(Range.exactly(behind)))
            own = {name: Range.exactly(value[None, :]) for name, value in keys.items()}
            seen[:, before:] = self._asked(query, own)
            here = places[before + chunk, None]
            # One row at each place up to its own, where no two rows share one.
            ordered = self.cached.in_place or not before
            distinct = ordered and len(np.unique(places)) == len(places)
            wrong = (seen != (places <= here)).any(1) if distinct else np.ones(len(chunk), bool)
            complete = np.isin(np.arange(int(here.max()) + 1), places).all()
            for at in np.flatnonzero(wrong if complete else np.ones_like(wrong)):
                row = int(chunk[at])
                one = (self.node.name, int(facts["segment"][row]), int(facts["inside"][row]))
                if one not in self.flaws:
                    found = self._sight(row, seen[at], places, before, facts["masked"])
                    if found is not None:
                        text = f"in a prompt of {length} tokens {found[1]}"
                        self._flaw(one, Flaw(found[0], "attention", text))

    def _asked(self, query: Mapping[str, Range], keys: Mapping[str, Range]) -> Any:
        predicate = self.op.attention.predicate
        return np.asarray(evaluate_range(predicate, pair_ranges(query, keys, self.kinds)).low) != 0

    def _all_or_none(self, keys: Mapping[str, Any]) -> None:
        """Ask for a cache of any length: which rows of it are seen must not depend on that."""
        query = {name: Range.exactly(value) for name, value in keys.items()}
        predicate = self.op.attention.predicate
        asked = pair_ranges(query, prefix_ranges(Range(-LONGEST_CONTEXT, -1)), self.kinds)
        found = evaluate_range(predicate, asked)
        if np.any(np.asarray(found.low) != np.asarray(found.high)):
            raise UntameError

    def _sight(
        self, row: int, seen: Any, places: Any, before: int, masked: Any
    ) -> tuple[str, str] | None:
        """Return what is wrong with what a row sees, or None: AR's row at its place sees it."""
        here, own = int(places[before + row]), before + row
        if not seen[own]:
            return codes.MISSES_ROW, f"row {row} does not see itself"
        others = np.flatnonzero(seen)
        others = others[others != own]
        if not self.cached.in_place and (others < before).any():
            return codes.CACHE_ORDER, f"row {row} sees cached rows that are not in order"
        if len(others) == here and np.array_equal(np.sort(places[others]), np.arange(here)):
            return None
        later = others[places[others] > here] - before
        if len(later):
            is_mask = later[0] >= 0 and bool(masked[later[0]])
            what = f"row {later[0]}, a mask" if is_mask else f"row {later[0]} behind it"
            return codes.SEES_MASK if is_mask else codes.SEES_LATER, f"row {row} sees {what}"
        missing = np.setdiff1d(np.arange(here), places[others])
        if len(missing):
            return codes.MISSES_ROW, f"row {row} does not see the token at offset {missing[-1]}"
        return codes.SEES_TWICE, f"row {row} sees two rows at one place"

    def _flaw(self, one: Class, flaw: Flaw) -> None:
        self.flaws.setdefault(one, flaw)

    def all_flawed(self, flaw: Flaw) -> None:
        """Note the same flaw of every row, and of what stays."""
        for one, _ in self._classes(self._facts(FULLY)):
            self.flaws.setdefault(one, flaw)
        if not isinstance(self.op.append, Boolean):
            self.keeps = Flaw(flaw.code, "cache", "how many rows stay cannot be decided")
        elif self.appends is None:
            held = self.op.append.value
            size = self.layout.size
            self.appends = (size.fixed * held, size.prompts * held, not held)

    def _count(self, counts: Mapping[int, int], in_place: bool) -> None:
        """Note a number of rows that stay which does not rise evenly with the prompt."""
        rise = counts[2] - counts[1]
        for length, count in counts.items():
            expected = counts[1] + rise * (length - 1)
            if count != expected and self.keeps is None:
                text = f"of prompts of 2 and {length} tokens it keeps {counts[2]} and {count} rows"
                self.keeps = Flaw(codes.FRONTIER, "cache", text)
        if self.keeps is None:
            self.appends = (counts[1] - rise, rise, in_place)


def _around(values: Sequence[int], margin: int) -> Iterator[int]:
    for value in values:
        yield from range(max(0, value - margin), value + margin + 1)
