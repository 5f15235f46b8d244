"""Which rows of the prefill are computed alike, and as AR computes them, at every prompt length.

The prefill can only be traced for some lengths. That these stand for all rests on what is decided
here: that the rows of the prompt (and each further row) lie where AR's do, see what AR's see, and
have the same adapter, prediction and place in the cache, however long the prompt is. Rows of which
that is not so have a `Flaw`, and the proof takes them for rows that are not AR's.

Decided means tried, at rows and lengths that stand for all (see docs/losslessness.md); what a row
sees is looked up for every key there is at that length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nldc.check.lossless import codes
from nldc.check.lossless.lines import UntameError
from nldc.check.lossless.prefill_rows import Class, PrefillRows
from nldc.check.lossless.stand_ins import FULLY, StandIns
from nldc.expr import Boolean
from nldc.ir.facts import LONGEST_CONTEXT, pair_ranges, prefix_ranges
from nldc.ir.graph import Graph
from nldc.ir.ops import Forward
from nldc.ir.ranges import Range, UndecidedError, evaluate_range

MOST_WORK = 5 * 10**7
"""Pairs of rows that are looked at for one forward; beyond that it is not decided."""
CHUNK = 2**20
"""Pairs of rows that are looked at at once."""


@dataclass(frozen=True)
class Flaw:
    """Why rows are not AR's at every length of the prompt: a code, a key of the node, a text.

    `row` is the one that the text names, in a prompt of `length` tokens; `keys` what it sees.
    """

    code: str
    key: str
    text: str
    row: int | None = None
    keys: tuple[int, ...] = ()
    length: int = 0


@dataclass(frozen=True)
class Alike:
    """What was found: the flaws of rows, and of what stays in the cache."""

    flaws: Mapping[Class, Flaw]
    kept: Mapping[str, Flaw]


def alike(graph: Graph) -> Alike:
    """Look at every forward of the prefill outside loops."""
    flaws: dict[Class, Flaw] = {}
    kept: dict[str, Flaw] = {}
    cached = _Cached()
    for node in graph.prefill.nodes:
        if not isinstance(node.op, Forward):
            continue
        looked = _Look(PrefillRows(node, node.op, graph.kinds), cached)
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

    rows: PrefillRows
    cached: _Cached
    flaws: dict[Class, Flaw] = field(default_factory=dict)
    keeps: Flaw | None = None
    appends: tuple[int, int, bool] | None = None
    work: int = 0

    def run(self) -> None:
        """Find the flaws.

        Raises:
            UntameError: the rows that are tried do not stand for all.
            UndecidedError: an expression may have no value.
        """
        stand_ins = StandIns(self.rows)
        expected: dict[Class, tuple[int, ...]] = {}
        counts: dict[int, int] = {}
        in_place = True
        for length in stand_ins.lengths():
            facts = self.rows.facts(length)
            values = {
                "offset": self.rows.each(self.rows.op.position, facts),
                "adapted": self.rows.adapted(facts),
                "next": self.rows.each(self.rows.op.predicts_next, facts),
            }
            kept = np.flatnonzero(self.rows.each(self.rows.op.append, facts))
            counts[length] = len(kept)
            in_place &= bool(np.array_equal(values["offset"][kept], np.arange(len(kept))))
            if len(facts["row"]):
                self._steady(length, facts, values, expected)
                if stand_ins.plain:
                    self._looked_at(length, stand_ins, facts, values["offset"])
        self._count(counts, in_place)
        if not stand_ins.plain:
            raise UntameError  # what rows see is not asked: no row of the prompt is AR's

    def _steady(
        self,
        length: int,
        facts: Mapping[str, Any],
        values: Mapping[str, Any],
        expected: dict[Class, tuple[int, ...]],
    ) -> None:
        """Note rows that are not like the others of their class, in this prompt or in shorter."""
        shift = values["offset"] - facts["row"] if self.rows.layout.dynamic else values["offset"]
        wrong = (
            ("adapted", "adapter", codes.ADAPTED, ("without it", "with it")),
            ("next", "predicts", codes.PREDICTS_SELF, ("as predicting itself", "as predicting on")),
        )
        for one, places in self.rows.classes(facts):
            first = places[0]
            flags = tuple(int(values[name][first]) for name in ("adapted", "next"))
            before = expected.setdefault(one, (*flags, int(shift[first])))
            for number, (name, key, code, how) in enumerate(wrong):
                odd = places[values[name][places] != before[number]]
                if len(odd):
                    what = how[1 - before[number]]
                    verb = "computed" if name == "adapted" else "read"
                    text = f"in a prompt of {length} tokens row {odd[0]} is {verb} {what}"
                    flaw = Flaw(
                        code, key, f"{text}, and others are not", int(odd[0]), length=length
                    )
                    self._flaw(one, flaw)
            odd = places[shift[places] != before[2]]
            if len(odd):
                offset = int(values["offset"][odd[0]])
                text = f"in a prompt of {length} tokens row {odd[0]} lies at offset {offset}"
                flaw = Flaw(codes.POSITION, "position", text, int(odd[0]), length=length)
                self._flaw(one, flaw)

    def _looked_at(
        self, length: int, stand_ins: StandIns, facts: Mapping[str, Any], offsets: Any
    ) -> None:
        """Note rows that do not see what AR's row sees.

        Raises:
            UntameError: that would be too much to look at.
            UndecidedError: what a row sees has no value.
        """
        before = self.cached.at(length)
        keys = {**facts, "position": offsets}
        queries = stand_ins.queries(length, facts)
        self.work += len(queries) * (len(offsets) + before)
        if self.work > MOST_WORK:
            raise UntameError
        places = np.concatenate((np.arange(before), before + offsets))
        if before and self.rows.layout.dynamic:
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
                one = (self.rows.node.name, int(facts["segment"][row]), int(facts["inside"][row]))
                if one not in self.flaws:
                    found = self._sight(row, seen[at], places, before, facts["masked"])
                    if found is not None:
                        code, said, own_keys = found
                        text = f"in a prompt of {length} tokens {said}"
                        self._flaw(one, Flaw(code, "attention", text, row, own_keys, length))

    def _asked(self, query: Mapping[str, Range], keys: Mapping[str, Range]) -> Any:
        predicate = self.rows.op.attention.predicate
        return (
            np.asarray(evaluate_range(predicate, pair_ranges(query, keys, self.rows.kinds)).low)
            != 0
        )

    def _all_or_none(self, keys: Mapping[str, Any]) -> None:
        """Ask for a cache of any length: which rows of it are seen must not depend on that."""
        query = {name: Range.exactly(value) for name, value in keys.items()}
        predicate = self.rows.op.attention.predicate
        asked = pair_ranges(query, prefix_ranges(Range(-LONGEST_CONTEXT, -1)), self.rows.kinds)
        found = evaluate_range(predicate, asked)
        if np.any(np.asarray(found.low) != np.asarray(found.high)):
            raise UntameError

    def _sight(
        self, row: int, seen: Any, places: Any, before: int, masked: Any
    ) -> tuple[str, str, tuple[int, ...]] | None:
        """Return what is wrong with what a row sees, or None: AR's row at its place sees it.

        That is a code, a text, and the rows of the forward that the row should see or not see.
        """
        here, own = int(places[before + row]), before + row
        if not seen[own]:
            return codes.MISSES_ROW, f"row {row} does not see itself", (row,)
        others = np.flatnonzero(seen)
        others = others[others != own]
        if not self.cached.in_place and (others < before).any():
            return codes.CACHE_ORDER, f"row {row} sees cached rows that are not in order", ()
        if len(others) == here and np.array_equal(np.sort(places[others]), np.arange(here)):
            return None
        later = others[places[others] > here] - before
        if len(later):
            is_mask = later[0] >= 0 and bool(masked[later[0]])
            what = f"row {later[0]}, a mask" if is_mask else f"row {later[0]} behind it"
            code = codes.SEES_MASK if is_mask else codes.SEES_LATER
            return code, f"row {row} sees {what}", (int(later[0]),) if later[0] >= 0 else ()
        missing = np.setdiff1d(np.arange(here), places[others])
        if len(missing):
            text = f"row {row} does not see the token at offset {missing[-1]}"
            there = np.flatnonzero(places[before:] == missing[-1])
            return codes.MISSES_ROW, text, tuple(map(int, there))
        return codes.SEES_TWICE, f"row {row} sees two rows at one place", ()

    def _flaw(self, one: Class, flaw: Flaw) -> None:
        self.flaws.setdefault(one, flaw)

    def all_flawed(self, flaw: Flaw) -> None:
        """Note the same flaw of every row, and of what stays."""
        for one, _ in self.rows.classes(self.rows.facts(FULLY)):
            self.flaws.setdefault(one, flaw)
        if not isinstance(self.rows.op.append, Boolean):
            self.keeps = Flaw(flaw.code, "cache", "how many rows stay cannot be decided")
        elif self.appends is None:
            held = self.rows.op.append.value
            size = self.rows.layout.size
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
