"""Run a region once with terms for tokens, for one outcome of every `accept` in it.

This is the interpreter's walk over the same graph; where the interpreter would look at a number
the trace either knows the answer for every input or makes a new term. Loops are not unrolled (see
`loops.py`), but for those of `fixed.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from nldc.check.lossless.choices import Choices, laid
from nldc.check.lossless.fixed import is_followed
from nldc.check.lossless.held import (
    Entry,
    Held,
    HeldAccepted,
    HeldLogits,
    HeldMask,
    HeldRows,
    HeldScores,
    HeldSomeAccepted,
    Nothing,
    RowState,
    Tokens,
)
from nldc.check.lossless.loops import leave_loop
from nldc.check.lossless.outcomes import Agreed, Outcome
from nldc.check.lossless.sight import Rowset, UndecidedError
from nldc.check.lossless.terms import MASK, Term, ar, carried, choice, made, unfilled
from nldc.expr import Boolean, Expr, evaluate, fold
from nldc.ir.branches import keeps_path, places_of
from nldc.ir.by_request import Declared
from nldc.ir.effects import leaves_rows, takes_all
from nldc.ir.graph import Graph, Step
from nldc.ir.layout import Layout, plain
from nldc.ir.ops import (
    Accept,
    Candidates,
    Fill,
    Forward,
    Join,
    LayRows,
    Leading,
    Lookup,
    Mask,
    Mix,
    Node,
    Noise,
    Recall,
    Reckon,
    Region,
    Repeat,
    Safety,
    Sample,
    Score,
    Select,
    Value,
)
from nldc.ir.picks import picked_of
from nldc.ir.scope import PROMPT
from nldc.ir.size import Size
from nldc.ir.types import Accepted, Count, Logits, RowMask, Rows, Scores, Type, accepted_fields
from nldc.ir.types import Tokens as TokensType


class UnknowableError(Exception):
    """A use of a value of which not even the number of tokens is known."""

    def __init__(self, value: Value) -> None:
        super().__init__(value.node)
        self.use = value


@dataclass(frozen=True)
class Trace:
    """One region's run: every row computed, what was compared, and what came out.

    `entries` are all rows computed outside loops and `tokens` what they hold, `cache` the numbers
    of those that were appended, in order. `equal` and `different` are the pairs that the outcome
    says agreed and did not. `unknown` are nodes whose effect this analysis cannot tell. `origins`
    are, for a term that stands for one of several, all that it may be; `ends` is that of
    `choices.Choices`. `torn` are mixed logits of different positions: the node, and the numbers of
    two parts. The prefill (`prompt_length` > 0) begins with an empty cache.
    """

    outcome: Outcome
    prompt_length: int
    entries: tuple[Entry, ...]
    tokens: tuple[Term, ...]
    cache: tuple[int, ...]
    equal: tuple[tuple[Term, Term], ...]
    different: tuple[tuple[Term, Term], ...]
    values: Mapping[str, Held]
    unknown: tuple[Node, ...]
    origins: Mapping[Term, frozenset[Term]]
    ends: Mapping[Term, tuple[tuple[Tokens, int], ...]]
    torn: tuple[tuple[Node, int, int], ...]


@dataclass
class Tracer:
    """Traces regions of one graph; what rows see is found once and shared by all outcomes."""

    graph: Graph
    _rowsets: dict[tuple[str, int, int], Rowset] = field(default_factory=dict)
    _entries: dict[tuple[Any, ...], tuple[Entry, ...]] = field(default_factory=dict)
    _paths: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    _prefills: dict[tuple[int, frozenset[Any]], Trace] = field(default_factory=dict)

    def prefill(self, prompt_length: int, outcome: Outcome) -> Trace:
        """Trace the prefill for a prompt of that many tokens, once."""
        key = (prompt_length, frozenset(outcome.items()))
        if key not in self._prefills:
            prompt = tuple(ar(place) for place in range(prompt_length))
            walk = _Walk(self, outcome, prompt_length, {PROMPT: prompt})
            self._prefills[key] = walk.run(self.graph.prefill)
        return self._prefills[key]

    def step(self, step: Step, outcome: Outcome) -> Trace:
        """Trace one of the steps."""
        values: dict[str, Held] = {}
        for item in self.graph.carry:
            if isinstance(item.type, Count):
                known = outcome.get(f"carry.{item.name}")
                values[f"carry.{item.name}"] = known if isinstance(known, int) else Nothing()
                continue
            size = getattr(item.type, "size", Size(0)).at(0)
            values[f"carry.{item.name}"] = tuple(carried(item.name, i) for i in range(size))
        return _Walk(self, outcome, 0, values).run(step.region)

    def value(self, trace: Trace, value: Value, prompt_length: int = 0) -> Any:
        """Return what a use of a value holds after the trace."""
        return _Walk(self, trace.outcome, prompt_length, dict(trace.values)).value(value)

    def kept(self, step: Step, trace: Trace) -> tuple[int, ...]:
        """Return the entries that stay after a step, in order.

        Raises:
            UnknowableError: it is not known how many those are.
        """
        keep = step.emit.keep
        if keep is None:
            return trace.cache
        held = trace.values.get(keep.node)
        if keeps_path(keep) and isinstance(held, HeldAccepted):
            if step.name not in self._paths:
                self._paths[step.name] = places_of(step, self.graph.kinds)
            places = self._paths[step.name][held.branch][: held.rows]
            return tuple(trace.cache[place] for place in places)
        rows = self.value(trace, keep)
        if not isinstance(rows, int):
            raise UnknowableError(keep)
        return trace.cache[:rows]

    def entries(
        self,
        node: Node,
        op: Forward,
        prompt_length: int,
        first: int,
        cached: tuple[int, ...],
        size: int,
    ) -> tuple[Entry, ...]:
        """Return the first `size` rows of a forward; they are the same in every outcome.

        The others are not there: a Count cut them off, and no row before them sees them.
        """
        key = (node.name, prompt_length, first, cached, size)
        if key not in self._entries:
            base = len(cached)
            one = (node.name, prompt_length, base)
            if one not in self._rowsets:
                self._rowsets[one] = Rowset(op, self.graph.kinds, prompt_length, base)
            rows = self._rowsets[one]
            self._entries[key] = tuple(
                Entry(
                    number=first + row.row,
                    node=node.name,
                    row=row.row,
                    position=base + rows.offsets[row.row],
                    adapted=rows.adapted[row.row],
                    predicts_next=rows.predicts_next[row.row],
                    rows=rows,
                    first=first,
                    cached=cached,
                )
                for row in rows.rows[:size]
            )
        return self._entries[key]


@dataclass
class _Walk:
    tracer: Tracer
    outcome: Outcome
    prompt_length: int
    values: dict[str, Held]
    entries: list[Entry] = field(default_factory=list)
    held_tokens: list[Term] = field(default_factory=list)
    cache: list[int] = field(default_factory=list)
    equal: list[tuple[Term, Term]] = field(default_factory=list)
    different: list[tuple[Term, Term]] = field(default_factory=list)
    unknown: list[Node] = field(default_factory=list)
    choices: Choices = field(default_factory=Choices)
    torn: list[tuple[Node, int, int]] = field(default_factory=list)

    def run(self, region: Region) -> Trace:
        for node in region.nodes:
            self.values[node.name] = self.node(node, inside=False)
        return Trace(
            outcome=self.outcome,
            prompt_length=self.prompt_length,
            entries=tuple(self.entries),
            tokens=tuple(self.held_tokens),
            cache=tuple(self.cache),
            equal=tuple(self.equal),
            different=tuple(self.different),
            values=self.values,
            unknown=tuple(self.unknown),
            origins=self.choices.origins,
            ends=self.choices.ends,
            torn=tuple(dict.fromkeys(self.torn)),
        )

    # Nodes

    def node(self, node: Node, *, inside: bool) -> Held:
        """Return what a node holds; `inside` a loop nothing is known of a forward's logits."""
        match node.op:
            case LayRows(layout, parts):
                return self.lay_rows(layout, parts)
            case Forward():
                return self.passing(node, node.op) if inside else self.forward(node, node.op)
            case Sample(logits, "allowed", None):
                return self.sample(node, self.value(logits))
            case Sample(logits):
                return self.drafted(node, self.value(logits))
            case Fill():
                return self.fill(node, node.op)
            case Mask():
                return self.mask(node, node.op)
            case Select():
                return self.select(node, node.op)
            case Join(parts):
                joined: list[Term] = []
                for part in parts:
                    joined.extend(self.tokens(part))
                return tuple(joined)
            case Accept():
                return self.accept_some(node, node.op) if inside else self.accept(node, node.op)
            case Leading():
                known = self.outcome.get(node.name)
                return known if isinstance(known, int) else Nothing()
            case Reckon():
                return self.reckon(node.op)
            case Repeat():
                if leaves_rows(node.op):
                    self.unknown.append(node)  # the rows that it leaves in the cache are no entries
                return self.repeat(node, node.op)
            case Mix():
                return self.mix(node, node.op)
            case _:
                return self.other(node)

    def other(self, node: Node) -> Held:
        """Return new terms for an op that only computes; note one that might do more."""
        if not isinstance(node.op, (Score, Safety, Noise, Lookup, Candidates, Recall)):
            self.unknown.append(node)
        return self.fresh(node)

    def lay_rows(self, layout: Layout, parts: Sequence[Value | None]) -> HeldRows:
        given = [() if part is None else self.tokens(part) for part in parts]
        rows = layout.rows(self.prompt_length)
        return laid([None if r.token is None else given[r.token[0]][r.token[1]] for r in rows])

    def forward(self, node: Node, op: Forward) -> HeldLogits:
        first, cached = len(self.entries), tuple(self.cache)
        tokens = self.tokens(op.rows)
        size = len(tokens)
        entries = self.tracer.entries(node, op, self.prompt_length, first, cached, size)
        self.held_tokens.extend(tokens)
        self.entries.extend(entries)
        self.cache.extend(first + row for row in entries[0].rows.appended if row < size)
        return HeldLogits(
            tuple(entry.number for entry in entries),
            tuple(entry.position + entry.predicts_next for entry in entries),
        )

    def passing(self, node: Node, op: Forward) -> Held:
        """Return the logits of a forward in a loop: only what they predict is known."""
        held = self.fresh(node)
        assert isinstance(held, HeldLogits)
        base = len(self.cache)
        try:
            rows = Rowset(op, self.tracer.graph.kinds, self.prompt_length, base)
            places = zip(rows.offsets, rows.predicts_next, strict=True)
            return HeldLogits(held.entries, tuple(base + at + ahead for at, ahead in places))
        except UndecidedError:
            return held

    def sample(self, node: Node, held: Any) -> Held:
        if not isinstance(held, HeldLogits):
            return self.fresh(node)
        return tuple(
            made(node.name, i) if entry is None else choice(entry)
            for i, entry in enumerate(held.entries)
        )

    def drafted(self, node: Node, held: Any) -> Held:
        """Return tokens of which nothing is known: AR may choose any, or at another temperature."""
        if not isinstance(held, HeldLogits):
            return self.fresh(node)
        return tuple(made(node.name, i) for i in range(len(held.entries)))

    def mix(self, node: Node, op: Mix) -> Held:
        """Logits that are those of one part, if it alone weighs anything; else new ones."""
        parts = [self.value(part) for part, _ in op.weighed]
        first = parts[0]
        if not isinstance(first, HeldLogits):
            return self.fresh(node)
        positions = first.positions
        brought = any(isinstance(weight, Expr) for _, weight in op.weighed)
        for number, other in enumerate(parts[1:], start=1):
            if not isinstance(other, HeldLogits):
                continue
            agree = _agreed(first.positions, other.positions)
            # A weight that requests bring may be 0: then the rows are those of another part.
            positions = _agreed(positions, other.positions) if brought else positions
            if _differ(first.positions, other.positions) or (brought and None in agree):
                places = [op.logits.index(op.weighed[i][0]) for i in (0, number)]
                self.torn.append((node, places[0], places[1]))
        if len(parts) == 1 and op.weighed[0][1] == 1:
            return first
        return HeldLogits((None,) * len(first.entries), positions)

    def fill(self, node: Node, op: Fill) -> Held:
        held = self.value(op.rows)
        if not isinstance(held, HeldRows):
            return self.fresh(node)
        chosen, new = self.value(op.where), self.value(op.tokens)
        if not isinstance(chosen, HeldMask):
            chosen = HeldMask((None,) * len(held.rows))
        if not isinstance(new, tuple):
            new = tuple(made(node.name, i, "new") for i in range(len(held.rows)))
        return self.choices.fill(node.name, held, op.rows.node, chosen, new)

    def mask(self, node: Node, op: Mask) -> Held:
        held, chosen = self.value(op.rows), self.value(op.where)
        if not isinstance(held, HeldRows):
            return self.fresh(node)
        if not isinstance(chosen, HeldMask):
            chosen = HeldMask((None,) * len(held.rows))
        return self.choices.mask(node.name, held, op.rows.node, chosen)

    def select(self, node: Node, op: Select) -> Held:
        """Rows out of `among`: of the others it is known that they are not chosen."""
        among = self.value(op.among)
        if not isinstance(among, HeldMask):
            return self.fresh(node)
        if takes_all(op):
            return among
        only_where = all(
            rule is None for rule in (op.at_least, op.at_most, op.best, op.within, op.always_best)
        )
        chosen = tuple(
            False if take is False or (only_where and _excludes(op.where, row)) else None
            for row, take in enumerate(among.rows)
        )
        return HeldMask(chosen, within=among.within)

    def accept(self, node: Node, op: Accept) -> Held:
        draft, target = self.tokens(op.draft), self.tokens(op.target)
        agreed = self.outcome[node.name]
        assert isinstance(agreed, Agreed)
        if op.branches:
            rows = op.branches[agreed.branch]
            draft, target = (tuple(held[row] for row in rows) for held in (draft, target))
        matches, most = agreed.matches, min(len(draft) - op.offset, len(target) - 1)
        if matches > most:  # more than a part that a Count cuts has: it cannot happen
            self.equal.append((MASK, MASK))
            self.different.append((MASK, MASK))
            matches = most
        for i in range(matches):
            self.equal.append((draft[i + op.offset], target[i]))
        if matches < most:
            self.different.append((draft[matches + op.offset], target[matches]))
        return HeldAccepted(
            tokens=target[: matches + 1],
            drafted=draft[: matches + op.offset],
            rows=matches + 1,
            matches=matches,
            bonus=(target[matches],),
            branch=agreed.branch,
        )

    def reckon(self, op: Reckon) -> Held:
        """Return a whole number, if all that it is made of is known."""
        terms = {name: self.value(value) for name, value in op.terms}
        if not all(isinstance(each, int) for each in terms.values()):
            return Nothing()
        return max(op.low, min(op.high, int(evaluate(op.expr, terms))))

    def accept_some(self, node: Node, op: Accept) -> Held:
        """Return that the bonus is some target: what agrees differs by round."""
        assert isinstance(node.type, Accepted)
        targets = self.tokens(op.target)
        if op.branches:
            targets = tuple(targets[row] for row in sorted({*chain(*op.branches)}))
        else:
            targets = targets[: node.type.most]
        return HeldSomeAccepted((self.choices.either(made(node.name, 0, "bonus"), *targets),))

    def repeat(self, node: Node, op: Repeat) -> Held:
        """Return the rows after a loop, whose body is walked until nothing new may happen."""
        initial = self.value(op.initial)
        if not isinstance(initial, HeldRows):
            return self.fresh(node)
        if is_followed(op):
            return self.followed(node, op, initial)
        outside, known = dict(self.values), dict(self.choices.ends)

        def body(head: HeldRows) -> Any:
            self.values = {**outside, f"{node.name}:{op.variable}": head}
            self.choices.ends = dict(known)
            for inner in op.body.nodes:
                self.values[inner.name] = self.node(inner, inside=True)
            return self.value(op.result)

        after = leave_loop(node.name, op, initial, self.choices, body, self)
        self.values = outside
        return self.fresh(node) if after is None else after

    def followed(self, node: Node, op: Repeat, initial: HeldRows) -> Held:
        """Return the rows after all rounds of a loop, each of which is walked; see `fixed.py`."""
        outside, rows = dict(self.values), initial
        chosen: dict[str, Tokens] = {}
        for _ in range(op.at_most):
            self.values = {**outside, f"{node.name}:{op.variable}": rows}
            for inner in op.body.nodes:
                held = self.values[inner.name] = self.node(inner, inside=False)
                if isinstance(inner.op, Sample) and isinstance(held, tuple):
                    chosen[inner.name] = (*chosen.get(inner.name, ()), *held)
            rows = self.value(op.result)
            assert isinstance(rows, HeldRows)
        self.values = {**outside, **chosen}
        return HeldRows(rows.rows)

    # Values

    @property
    def declared(self) -> Declared:
        """The params that requests bring: whatever is concluded holds for all their values."""
        return self.tracer.graph.runtime

    def fresh(self, node: Node) -> Held:
        """Return new terms for a node of which nothing is known but its type."""
        return _fresh(node.type, node.name, self.prompt_length)

    def tokens(self, value: Value) -> Tokens:
        """Return the terms of a use of tokens or rows."""
        held = self.value(value)
        if isinstance(held, HeldRows):
            return held.tokens
        if not isinstance(held, tuple):
            raise UnknowableError(value)
        return held

    def value(self, value: Value) -> Any:
        held = self.values.get(value.node, Nothing())
        if isinstance(held, Nothing):
            return held
        if value.field is not None:
            held = _field(held, value.field, value.node)
        if not value.picks or isinstance(held, Nothing):
            return held
        others: tuple[tuple[str, int], ...] = ()
        if value.count_name is not None and value.count is not None:
            others = ((value.count_name, self.value(value.count)),)
        if any(isinstance(count, Nothing) for _, count in others):
            return self.for_any_count(value, held)
        return self.chosen(value, held, others)

    def for_any_count(self, value: Value, held: Any) -> Any:
        """Return what a choice of rows may hold, by a count that is made in a loop."""
        assert value.count is not None
        assert value.count_name is not None
        count = self.tracer.graph.node(value.count.node).type
        if isinstance(count, Accepted):
            assert value.count.field is not None
            count = accepted_fields(count)[value.count.field]
        assert isinstance(count, Count)
        found = [
            self.chosen(value, held, ((value.count_name, number),))
            for number in range(count.low, count.high + 1)
        ]
        if isinstance(found[0], tuple) and len(set(map(len, found))) > 1:
            return Nothing()  # not even how many
        if isinstance(found[0], tuple):
            use = f"{value.field} {value.picks}"
            return tuple(
                self.choices.one_of(made(value.node, i, "any", use), *terms)
                for i, terms in enumerate(zip(*found, strict=True))
            )
        if isinstance(found[0], HeldLogits):
            unknown = (None,) * len(found[0].entries)
            return HeldLogits(unknown, unknown)
        return Nothing()

    def chosen(self, value: Value, held: Any, others: tuple[tuple[str, int], ...]) -> Any:
        """Return the rows of a value that its picks choose."""
        kinds = self.tracer.graph.kinds
        match held:
            case HeldLogits():
                layout = self._layout_of(value)
                chosen = picked_of(layout, self.prompt_length, value.picks, kinds, others)
                return HeldLogits(
                    tuple(held.entries[row] for row in chosen),
                    tuple(held.positions[row] for row in chosen),
                )
            case HeldRows():
                layout = self._layout_of(value)
                chosen = picked_of(layout, self.prompt_length, value.picks, kinds, others)
                return tuple(held.rows[row].token for row in chosen)
            case HeldMask(flags):
                chosen = picked_of(plain(Size(len(flags))), 0, value.picks, kinds, others)
                return HeldMask(tuple(flags[row] for row in chosen))
            case tuple():
                chosen = picked_of(plain(Size(len(held))), 0, value.picks, kinds, others)
                return tuple(held[row] for row in chosen)
            case _:
                return Nothing()

    def _layout_of(self, value: Value) -> Layout:
        node = self.tracer.graph.node(value.node.split(":")[0])
        layout = getattr(node.type, "layout", None)
        assert isinstance(layout, Layout)
        return layout


def _excludes(where: Expr | None, row: int) -> bool:
    """Whether a condition fails for a row, whatever its rank and score."""
    values = {"row": row}
    return where is not None and fold(where, lambda ref: values.get(ref.root)) == Boolean(False)


def _differ(first: Sequence[int | None], second: Sequence[int | None]) -> bool:
    """Whether rows are known to predict different positions."""
    pairs = zip(first, second, strict=True)
    return any(one != other for one, other in pairs if None not in (one, other))


def _agreed(first: Sequence[int | None], second: Sequence[int | None]) -> tuple[int | None, ...]:
    """Return the positions that rows are known to predict in both."""
    pairs = zip(first, second, strict=True)
    return tuple(one if one == other else None for one, other in pairs)


def _field(held: Any, name: str, node: str) -> Any:
    if isinstance(held, HeldRows) and name == "masked":
        return HeldMask(held.masked, within=held.within | {node}, covers=frozenset({node}))
    if isinstance(held, HeldRows) and name == "filled":
        return HeldMask(tuple(None if masked is None else not masked for masked in held.masked))
    return getattr(held, name, Nothing())


def _fresh(type_: Type, name: str, prompt_length: int) -> Held:
    match type_:
        case TokensType(size):
            return tuple(made(name, i) for i in range(size.at(prompt_length)))
        case Rows():
            return HeldRows(
                tuple(
                    RowState(made(name, i), None, made(name, i, "filled"), unfilled(name))
                    for i in range(type_.size.at(prompt_length))
                )
            )
        case Logits(size):
            count = size.at(prompt_length)
            return HeldLogits((None,) * count, (None,) * count)
        case RowMask(size):
            return HeldMask((None,) * size.at(prompt_length))
        case Scores(size):
            return HeldScores(size.at(prompt_length))
        case _:
            return Nothing()
