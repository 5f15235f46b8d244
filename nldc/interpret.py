"""Run a graph eagerly, one sequence, no cache tricks: the meaning of the language.

Nothing is reused between forwards: every row that ever entered the cache is remembered with what
it saw and under which adapter, and is computed again, so that a strategy which keeps the wrong
rows gives the wrong tokens here too. Slow and plain; generated decoders are tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nldc.diagnostics import InternalError
from nldc.expr import Expr, evaluate
from nldc.ir.facts import facts_of, pair_lookup, prefix_facts, row_lookup
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
    Repeat,
    Sample,
    Score,
    Select,
    Value,
)
from nldc.ir.picks import picked
from nldc.ir.scope import PROMPT
from nldc.ir.size import Size


@dataclass(frozen=True)
class Entry:
    """A row that was computed: what it was, and the entries that it saw (itself included)."""

    token: int
    position: int
    sees: tuple[int, ...]
    adapter: str | None


class Model(Protocol):
    """A backbone without a cache."""

    vocabulary: int
    mask_token_id: int
    eos: frozenset[int]

    def logits(self, entries: Sequence[Entry]) -> Sequence[Sequence[float]]:
        """Return the logits of every entry; entry i sees `entries[i].sees`."""
        ...


Choose = Callable[[Sequence[float], int], int]
"""The token for a row of logits that predicts an absolute position."""


def greedy(logits: Sequence[float], position: int) -> int:
    """Return the likeliest token, the lowest id of equal ones."""
    del position
    return max(range(len(logits)), key=lambda token: (logits[token], -token))


@dataclass(frozen=True)
class HeldRows:
    """Rows: a token each, and which are masked."""

    tokens: tuple[int, ...]
    masked: tuple[bool, ...]

    @property
    def filled(self) -> tuple[bool, ...]:
        """The rows that are not masked."""
        return tuple(not masked for masked in self.masked)


@dataclass(frozen=True)
class HeldLogits:
    """Logits of a forward's rows in the file's order, and the position each predicts."""

    rows: tuple[tuple[float, ...], ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class HeldAccepted:
    """What agreed; see `accept`."""

    tokens: tuple[int, ...]
    drafted: tuple[int, ...]
    rows: int
    matches: int
    bonus: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """What a run emitted: tokens, forwards that count, and tokens a step before any cut."""

    tokens: tuple[int, ...]
    nfe: int
    accepted: tuple[int, ...]


def run(
    graph: Graph,
    model: Model,
    prompt: Sequence[int],
    max_new_tokens: int,
    choose: Choose = greedy,
    adapters: Sequence[str] | None = None,
    most_steps: int = 10_000,
) -> Run:
    """Decode one prompt.

    `adapters` are those that are loaded (None: all that the strategy declares). A run that emits
    nothing for `most_steps` steps is cut off there.
    """
    loaded = [a.name for a in graph.adapters] if adapters is None else list(adapters)
    return _Interpreter(graph, model, choose, loaded).run(prompt, max_new_tokens, most_steps)


@dataclass
class _Interpreter:
    graph: Graph
    model: Model
    choose: Choose
    loaded: Sequence[str]
    entries: list[Entry] = field(default_factory=list)
    cache: list[int] = field(default_factory=list)
    history: list[int] = field(default_factory=list)
    nfe: int = 0

    def run(self, prompt: Sequence[int], max_new_tokens: int, most_steps: int) -> Run:
        graph = self.graph
        emitted: list[int] = []
        accepted: list[int] = []
        values: dict[str, Any] = {PROMPT: tuple(prompt)}
        self._nodes(graph.prefill.nodes, values, len(prompt))
        if graph.prefill_tokens is not None:
            emitted.extend(self._value(graph.prefill_tokens, values))
        carry = {f"carry.{c.name}": self._value(c.initial, values) for c in graph.carry}
        self.graph = graph = self._variant()
        self.history = [*prompt, *emitted]
        for _ in range(most_steps):
            if self._finished(emitted, max_new_tokens):
                break
            committed = len(self.cache)
            values = dict(carry)
            self._nodes(graph.step.nodes, values, 0)
            tokens = self._emitted(graph.emit.tokens, values)
            if graph.emit.keep is not None:
                self.cache[committed + self._value(graph.emit.keep, values) :] = []
            carry = {f"carry.{c.name}": self._value(c.next, values) for c in graph.carry}
            emitted.extend(tokens)
            self.history.extend(tokens)
            accepted.append(len(tokens))
        return Run(self._cut(emitted, max_new_tokens), self.nfe, tuple(accepted))

    def _variant(self) -> Graph:
        for other in self.graph.alternatives:
            if evaluate(other.condition, {"live": 1}):
                return other.graph
        return self.graph

    def _finished(self, emitted: Sequence[int], most: int) -> bool:
        return len(emitted) >= most or any(token in self.model.eos for token in emitted)

    def _cut(self, emitted: Sequence[int], most: int) -> tuple[int, ...]:
        kept: list[int] = []
        for token in emitted[:most]:
            kept.append(token)
            if token in self.model.eos:
                break
        return tuple(kept)

    def _emitted(self, value: Value, values: Mapping[str, Any]) -> tuple[int, ...]:
        tokens: tuple[int, ...] = self._value(value, values)
        return tokens

    # Nodes

    def _nodes(
        self,
        nodes: Sequence[Node],
        values: dict[str, Any],
        prompt_length: int,
        iteration: int = 0,
    ) -> None:
        for node in nodes:
            values[node.name] = self._node(node, values, prompt_length, iteration)

    def _node(self, node: Node, values: dict[str, Any], prompt_length: int, iteration: int) -> Any:
        match node.op:
            case LayRows(layout, parts):
                return self._lay_rows(layout, parts, values, prompt_length)
            case Forward():
                return self._forward(node.op, values, prompt_length)
            case Sample(logits):
                held = self._logits(logits, values, prompt_length)
                return tuple(map(self.choose, held.rows, held.positions))
            case Score(logits, tokens, by):
                held = self._logits(logits, values, prompt_length)
                chosen = None if tokens is None else self._value(tokens, values)
                return tuple(
                    score(row, by, None if chosen is None else chosen[number])
                    for number, row in enumerate(held.rows)
                )
            case Select():
                return self._select(node.op, values, iteration)
            case Fill(rows, where, tokens):
                held_rows: HeldRows = self._value(rows, values)
                taken = self._value(where, values)
                new = self._value(tokens, values)
                pairs = zip(taken, new, held_rows.tokens, strict=True)
                return HeldRows(
                    tuple(n if take else old for take, n, old in pairs),
                    tuple(m and not take for m, take in zip(held_rows.masked, taken, strict=True)),
                )
            case Mix(logits_, weights):
                held_logits = [self._logits(part, values, prompt_length) for part in logits_]
                return mix(held_logits, weights)
            case Lookup(length, ngram):
                return lookup(self.history, length, ngram)
            case Join(parts):
                return tuple(token for part in parts for token in self._value(part, values))
            case Accept(draft, target, offset):
                return accept(
                    _tokens(self._value(draft, values)), self._value(target, values), offset
                )
            case Repeat():
                return self._repeat(node.name, node.op, values, prompt_length)

    def _lay_rows(
        self,
        layout: Layout,
        parts: Sequence[Value | None],
        values: Mapping[str, Any],
        prompt_length: int,
    ) -> HeldRows:
        given = [None if p is None else _tokens(self._value(p, values)) for p in parts]
        tokens: list[int] = []
        for row in layout.rows(prompt_length):
            if row.token is None:
                tokens.append(self.model.mask_token_id)
            else:
                part = given[row.token[0]]
                assert part is not None
                tokens.append(part[row.token[1]])
        return HeldRows(tuple(tokens), tuple(row.masked for row in layout.rows(prompt_length)))

    def _forward(self, op: Forward, values: Mapping[str, Any], prompt_length: int) -> HeldLogits:
        kinds = self.graph.kinds
        rows = op.layout.rows(prompt_length)
        tokens = _tokens(self._value(op.rows, values))
        first = len(self.entries)
        length = len(self.cache)

        def about(expr: Expr, number: int) -> Any:
            return evaluate(expr, row_lookup(facts_of(rows[number], kinds), kinds, {}))

        offsets = [int(about(op.position, number)) for number in range(len(rows))]
        for query, offset in zip(rows, offsets, strict=True):
            facts = facts_of(query, kinds, offset)
            sees = [
                entry
                for place, entry in enumerate(self.cache)
                if evaluate(
                    op.attention.predicate,
                    pair_lookup(facts, prefix_facts(place - length), kinds),
                )
            ]
            sees += [
                first + key.row
                for key, key_offset in zip(rows, offsets, strict=True)
                if evaluate(
                    op.attention.predicate,
                    pair_lookup(facts, facts_of(key, kinds, key_offset), kinds),
                )
            ]
            adapted = op.adapter is not None and about(op.adapter_rows, query.row)
            adapter = op.adapter if adapted and op.adapter in self.loaded else None
            self.entries.append(Entry(tokens[query.row], length + offset, tuple(sees), adapter))
        logits = self.model.logits(self.entries)
        self.cache.extend(first + row.row for row in rows if about(op.append, row.row))
        self.nfe += op.counted
        return HeldLogits(
            tuple(tuple(logits[first + row.row]) for row in rows),
            tuple(
                length + offsets[row.row] + int(about(op.predicts_next, row.row)) for row in rows
            ),
        )

    def _select(self, op: Select, values: Mapping[str, Any], iteration: int) -> tuple[bool, ...]:
        among = self._value(op.among, values)
        scores = self._value(op.score, values)
        numbers = {"iteration": iteration, "left": sum(among)}
        rules = {
            name: None if expr is None else evaluate(expr, numbers)
            for name, expr in (
                ("at_least", op.at_least),
                ("at_most", op.at_most),
                ("best", op.best),
                ("within", op.within),
                ("always_best", op.always_best),
            )
        }
        sign = -1 if op.less_is_surer else 1
        order = sorted(
            (row for row, free in enumerate(among) if free),
            key=lambda row: (-sign * scores[row], row),
        )
        chosen: set[int] = set()
        total = 0.0
        for rank, row in enumerate(order):
            at_least, at_most, within = rules["at_least"], rules["at_most"], rules["within"]
            # The sum of the surer rows' scores, less the largest of them: this row's own is it.
            fits = within is not None and total <= within
            total += scores[row]
            if (
                (at_least is not None and scores[row] >= at_least)
                or (at_most is not None and scores[row] <= at_most)
                or (rules["best"] is not None and rank < rules["best"])
                or (rules["always_best"] is not None and rank < rules["always_best"])
                or fits
                or self._where(op.where, numbers, row, rank, scores[row])
            ):
                chosen.add(row)
        return tuple(row in chosen for row in range(len(among)))

    def _where(
        self, where: Expr | None, numbers: Mapping[str, int], row: int, rank: int, score_: float
    ) -> bool:
        facts = {**numbers, "row": row, "rank": rank, "score": score_}
        return where is not None and bool(evaluate(where, facts))

    def _repeat(
        self, name: str, op: Repeat, values: dict[str, Any], prompt_length: int
    ) -> HeldRows:
        held: HeldRows = self._value(op.initial, values)
        for iteration in range(op.at_most):
            if iteration >= op.at_least and is_full(held, self.model.eos):
                break
            inner = {**values, f"{name}:{op.variable}": held}
            self._nodes(op.body.nodes, inner, prompt_length, iteration)
            held = self._value(op.result, inner)
        return held

    # Values

    def _value(self, value: Value, values: Mapping[str, Any]) -> Any:
        held = values[value.node]
        if value.field is not None:
            held = getattr(held, value.field)
        if not value.picks:
            return held
        tokens = _tokens(held)
        others = {} if value.count_name is None else {value.count_name: self._count(value, values)}
        layout = plain(Size(len(tokens)))
        if isinstance(held, HeldRows):
            layout = self._layout_of(value)
        chosen = picked(layout.rows(), value.picks, self.graph.kinds, others)
        return tuple(tokens[row] for row in chosen)

    def _logits(self, value: Value, values: Mapping[str, Any], prompt_length: int) -> HeldLogits:
        held: HeldLogits = values[value.node]
        if not value.picks:
            return held
        others = {} if value.count_name is None else {value.count_name: self._count(value, values)}
        rows = self._layout_of(value).rows(prompt_length)
        chosen = picked(rows, value.picks, self.graph.kinds, others)
        return HeldLogits(
            tuple(held.rows[row] for row in chosen), tuple(held.positions[row] for row in chosen)
        )

    def _count(self, value: Value, values: Mapping[str, Any]) -> int:
        assert value.count is not None
        count: int = self._value(value.count, values)
        return count

    def _layout_of(self, value: Value) -> Layout:
        type_ = self.graph.node(value.node.split(":")[0]).type
        layout = getattr(type_, "layout", None)
        if not isinstance(layout, Layout):
            raise InternalError(f"{value.node} has no layout")
        return layout


def _tokens(held: Any) -> tuple[int, ...]:
    return held.tokens if isinstance(held, HeldRows) else held


def is_full(held: HeldRows, eos: frozenset[int]) -> bool:
    """Whether no row is masked, or an EOS stands before the first masked row."""
    for token, masked in zip(held.tokens, held.masked, strict=True):
        if masked:
            return False
        if token in eos:
            return True
    return True


def mix(logits: Sequence[HeldLogits], weights: Sequence[float]) -> HeldLogits:
    """Add logits of the same positions, each times its weight."""
    rows = tuple(
        tuple(
            sum(w * value for w, value in zip(weights, values, strict=True))
            for values in zip(*same, strict=True)
        )
        for same in zip(*(held.rows for held in logits), strict=True)
    )
    return HeldLogits(rows, logits[0].positions)


def lookup(history: Sequence[int], length: int, ngram: int) -> tuple[int, ...]:
    """Return what followed the latest earlier occurrence of the last tokens.

    Fewer than `ngram` tokens are looked for if that many never occurred before; what is missing at
    the end is the last token again.
    """
    for size in range(min(ngram, len(history) - 1), 0, -1):
        tail = list(history[-size:])
        for start in range(len(history) - size - 1, -1, -1):
            if list(history[start : start + size]) == tail:
                found = list(history[start + size : start + size + length])
                return tuple(found + [history[-1]] * (length - len(found)))
    return (history[-1],) * length


def accept(draft: Sequence[int], target: Sequence[int], offset: int) -> HeldAccepted:
    """Hold target i against draft i + offset, up to the first difference."""
    most = len(draft) - offset
    matches = 0
    while matches < most and draft[matches + offset] == target[matches]:
        matches += 1
    return HeldAccepted(
        tokens=tuple(target[: matches + 1]),
        drafted=tuple(draft[: matches + offset]),
        rows=matches + 1,
        matches=matches,
        bonus=(target[matches],),
    )


def score(row: Sequence[float], by: str, token: int | None) -> float:
    """Return the probability of `token`, the margin of the two likeliest, or the entropy."""
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    total = sum(weights)
    if by == "probability":
        assert token is not None
        return weights[token] / total
    if by == "margin":
        first, second = sorted(weights, reverse=True)[:2]
        return (first - second) / total
    return -sum(w / total * math.log(w / total) for w in weights if w > 0)
