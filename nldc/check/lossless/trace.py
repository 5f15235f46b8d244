"""Run a region once with terms for tokens, for one outcome of every `accept` in it.

This is the interpreter's walk over the same graph; where the interpreter would look at a number
the trace either knows the answer for every input or makes a new term. Loops are not unrolled: of a
loop's result only those rows are known that no round changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from nldc.check.lossless.fills import fills_all
from nldc.check.lossless.held import (
    Entry,
    Held,
    HeldAccepted,
    HeldLogits,
    HeldMask,
    HeldRows,
    HeldScores,
    Nothing,
    Tokens,
)
from nldc.check.lossless.sight import Rowset
from nldc.check.lossless.terms import MASK, Term, ar, carried, choice, made
from nldc.expr import Boolean, Expr, Number, fold
from nldc.ir.graph import Graph
from nldc.ir.layout import Layout, plain
from nldc.ir.ops import (
    Accept,
    Fill,
    Forward,
    Join,
    LayRows,
    Lookup,
    Mix,
    Node,
    Region,
    Repeat,
    Sample,
    Score,
    Select,
    Value,
)
from nldc.ir.picks import picked_of
from nldc.ir.scope import PROMPT
from nldc.ir.size import Size
from nldc.ir.types import Accepted, Logits, RowMask, Rows, Scores, Type
from nldc.ir.types import Tokens as TokensType

Outcome = Mapping[str, int]
"""How many drafts each `accept` matches, by node."""


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
    are, for a term that stands for one of several, all that it may be. The prefill
    (`prompt_length` > 0) begins with an empty cache.
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


def outcomes(region: Region) -> Iterator[Outcome]:
    """Yield every combination of matches of the region's accepts."""
    nodes = [node for node in region.nodes if isinstance(node.op, Accept)]
    counts = [range(node.type.most) for node in nodes if isinstance(node.type, Accepted)]
    for combination in product(*counts):
        yield {node.name: matches for node, matches in zip(nodes, combination, strict=True)}


@dataclass
class Tracer:
    """Traces regions of one graph; what rows see is found once and shared by all outcomes."""

    graph: Graph
    _entries: dict[tuple[str, int], tuple[Entry, ...]] = field(default_factory=dict)

    def prefill(self, prompt_length: int, outcome: Outcome) -> Trace:
        """Trace the prefill for a prompt of that many tokens."""
        prompt = tuple(ar(place) for place in range(prompt_length))
        return _Walk(self, outcome, prompt_length, {PROMPT: prompt}).run(self.graph.prefill)

    def step(self, outcome: Outcome) -> Trace:
        """Trace a step."""
        values: dict[str, Held] = {}
        for item in self.graph.carry:
            size = getattr(item.type, "size", Size(0)).at(0)
            values[f"carry.{item.name}"] = tuple(carried(item.name, i) for i in range(size))
        return _Walk(self, outcome, 0, values).run(self.graph.step)

    def value(self, trace: Trace, value: Value, prompt_length: int = 0) -> Any:
        """Return what a use of a value holds after the trace."""
        return _Walk(self, trace.outcome, prompt_length, dict(trace.values)).value(value)

    def entries(
        self, node: Node, op: Forward, prompt_length: int, first: int, cached: tuple[int, ...]
    ) -> tuple[Entry, ...]:
        """Return the rows of a forward; they are the same in every outcome."""
        key = (node.name, prompt_length)
        if key not in self._entries:
            base = len(cached)
            rows = Rowset(op, self.graph.kinds, prompt_length, base)
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
                for row in rows.rows
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
    origins: dict[Term, frozenset[Term]] = field(default_factory=dict)

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
            origins=self.origins,
        )

    # Nodes

    def node(self, node: Node, *, inside: bool) -> Held:
        """Return what a node holds; `inside` a loop nothing is known of a forward's logits."""
        match node.op:
            case LayRows(layout, parts):
                return self.lay_rows(layout, parts)
            case Forward() if not inside:
                return self.forward(node, node.op)
            case Sample(logits, "allowed"):
                return self.sample(node, self.value(logits))
            case Sample():
                return self.fresh(node)  # AR may choose any token
            case Fill(rows, where, tokens):
                return self.fill(node, rows, where, tokens)
            case Select():
                return self.select(node.op)
            case Join(parts):
                joined: list[Term] = []
                for part in parts:
                    joined.extend(self.tokens(part))
                return tuple(joined)
            case Accept() if not inside:
                return self.accept(node, node.op)
            case Repeat():
                if node.op.keys == "kept":
                    self.unknown.append(node)  # the rows that it leaves in the cache are no entries
                return self.repeat(node, node.op)
            case Mix():
                return self.mix(node, node.op)
            case _:
                return self.other(node)

    def other(self, node: Node) -> Held:
        """Return new terms for an op that only computes; note one that might do more."""
        if not isinstance(node.op, (Forward, Score, Lookup, Accept)):
            self.unknown.append(node)
        return self.fresh(node)

    def lay_rows(self, layout: Layout, parts: Sequence[Value | None]) -> HeldRows:
        given = [() if part is None else self.tokens(part) for part in parts]
        rows = layout.rows(self.prompt_length)
        tokens = tuple(MASK if r.token is None else given[r.token[0]][r.token[1]] for r in rows)
        return HeldRows(tokens, tuple(row.masked for row in rows))

    def forward(self, node: Node, op: Forward) -> HeldLogits:
        first, cached = len(self.entries), tuple(self.cache)
        entries = self.tracer.entries(node, op, self.prompt_length, first, cached)
        self.held_tokens.extend(self.tokens(op.rows))
        self.entries.extend(entries)
        self.cache.extend(first + row for row in entries[0].rows.appended)
        return HeldLogits(
            tuple(entry.number for entry in entries),
            tuple(entry.position + entry.predicts_next for entry in entries),
        )

    def sample(self, node: Node, held: Any) -> Held:
        if not isinstance(held, HeldLogits):
            return self.fresh(node)
        return tuple(
            made(node.name, i) if entry is None else choice(entry)
            for i, entry in enumerate(held.entries)
        )

    def mix(self, node: Node, op: Mix) -> Held:
        """Logits that are those of one part, if it alone weighs anything; else new ones."""
        parts = [part for part, weight in zip(op.logits, op.weights, strict=True) if weight != 0]
        if len(parts) == 1 and sum(op.weights) == 1:
            held = self.value(parts[0])
            if isinstance(held, HeldLogits):
                return held
        return self.fresh(node)

    def fill(self, node: Node, rows: Value, where: Value, tokens: Value) -> Held:
        held, chosen, new = self.value(rows), self.value(where), self.value(tokens)
        known = isinstance(held, HeldRows) and isinstance(chosen, HeldMask)
        if not known or not isinstance(new, tuple):
            return self.fresh(node)
        filled: list[Term] = []
        masked: list[bool | None] = []
        for i, (old, was, take) in enumerate(
            zip(held.tokens, held.masked, chosen.rows, strict=True)
        ):
            filled.append(
                new[i] if take else old if take is False else self.either(node, i, old, new[i])
            )
            masked.append(False if take or was is False else was if take is False else None)
        return HeldRows(tuple(filled), tuple(masked))

    def select(self, op: Select) -> Held:
        """Rows out of `among`: of the others it is known that they are not chosen."""
        among = self.value(op.among)
        if not isinstance(among, HeldMask):
            return Nothing()
        everything = isinstance(op.at_least, Number) and op.at_least.value <= 0
        everything = everything and not op.less_is_surer
        only_where = all(
            rule is None for rule in (op.at_least, op.at_most, op.best, op.within, op.always_best)
        )
        return HeldMask(
            tuple(
                False
                if take is False or (only_where and _excludes(op.where, row))
                else take
                if everything
                else None
                for row, take in enumerate(among.rows)
            )
        )

    def accept(self, node: Node, op: Accept) -> Held:
        draft, target = self.tokens(op.draft), self.tokens(op.target)
        matches = self.outcome[node.name]
        for i in range(matches):
            self.equal.append((draft[i + op.offset], target[i]))
        if matches + op.offset < len(draft):
            self.different.append((draft[matches + op.offset], target[matches]))
        return HeldAccepted(
            tokens=target[: matches + 1],
            drafted=draft[: matches + op.offset],
            rows=matches + 1,
            matches=matches,
            bonus=(target[matches],),
        )

    def repeat(self, node: Node, op: Repeat) -> Held:
        """Keep what no round changes; of the other rows it is only known that they are rows."""
        held = self.value(op.initial)
        if not isinstance(held, HeldRows):
            held = self.fresh(node)
        assert isinstance(held, HeldRows)
        outside = dict(self.values)
        while True:
            self.values = {**outside, f"{node.name}:{op.variable}": held}
            for inner in op.body.nodes:
                self.values[inner.name] = self.node(inner, inside=True)
            after = self.value(op.result)
            self.values = dict(outside)
            if not isinstance(after, HeldRows):
                return self.fresh(node)
            pairs = list(zip(held.tokens, after.tokens, strict=True))
            # A loop may itself fill masked rows, behind an EOS or when its rounds are over.
            fills = op.eos == "fills" or op.exhausted == "fill"
            kept = [
                old == new and not (fills and was is not False)
                for (old, new), was in zip(pairs, held.masked, strict=True)
            ]
            tokens = tuple(
                old if same else self.either(node, i, old, new)
                for i, ((old, new), same) in enumerate(zip(pairs, kept, strict=True))
            )
            masked = tuple(
                old if old == new and not (fills and old) else None
                for old, new in zip(held.masked, after.masked, strict=True)
            )
            if (tokens, masked) == (held.tokens, held.masked):
                return self.loop_result(node, op, held)
            held = HeldRows(tokens, masked)

    def loop_result(self, node: Node, op: Repeat, held: HeldRows) -> HeldRows:
        """Forget the masks of a loop that surely fills them (or ends with an EOS before them)."""
        first = self.value(op.initial)
        masks = sum(masked is not False for masked in getattr(first, "masked", held.masked))
        if not fills_all(node, op, masks):
            return held
        for token in held.tokens:
            if token in self.origins:
                self.origins[token] = frozenset(self.leaves(token, set())) - {MASK}
        return HeldRows(held.tokens, (False,) * len(held.masked))

    def leaves(self, term: Term, seen: set[Term]) -> set[Term]:
        """Return all that a term may be in the end."""
        if term not in self.origins:
            return {term}
        found: set[Term] = set()
        for origin in self.origins[term] - seen:
            seen.add(origin)
            found |= self.leaves(origin, seen)
        return found

    def either(self, node: Node, element: int, *terms: Term) -> Term:
        """Return a term for an element that is one of several."""
        term = made(node.name, element)
        self.origins[term] = self.origins.get(term, frozenset()) | (frozenset(terms) - {term})
        return term

    # Values

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
            held = _field(held, value.field)
        if not value.picks or isinstance(held, Nothing):
            return held
        others: tuple[tuple[str, int], ...] = ()
        if value.count_name is not None and value.count is not None:
            others = ((value.count_name, self.value(value.count)),)
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
                return tuple(held.tokens[row] for row in chosen)
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


def _field(held: Any, name: str) -> Any:
    if isinstance(held, HeldRows) and name == "masked":
        return HeldMask(held.masked)
    if isinstance(held, HeldRows) and name == "filled":
        return HeldMask(tuple(None if masked is None else not masked for masked in held.masked))
    return getattr(held, name, Nothing())


def _fresh(type_: Type, name: str, prompt_length: int) -> Held:
    match type_:
        case TokensType(size):
            return tuple(made(name, i) for i in range(size.at(prompt_length)))
        case Rows():
            count = type_.size.at(prompt_length)
            return HeldRows(tuple(made(name, i) for i in range(count)), (None,) * count)
        case Logits(size):
            count = size.at(prompt_length)
            return HeldLogits((None,) * count, (0,) * count)
        case RowMask(size):
            return HeldMask((None,) * size.at(prompt_length))
        case Scores(size):
            return HeldScores(size.at(prompt_length))
        case _:
            return Nothing()
