"""Run a graph eagerly, one sequence, no cache tricks: the meaning of the language.

Nothing is reused between forwards: every row that ever entered the cache is remembered with what
it saw and under which adapter, and is computed again, so that a strategy which keeps the wrong
rows gives the wrong tokens here too. Slow and plain; generated decoders are tested against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, Protocol

from nldc.diagnostics import InternalError, untold
from nldc.expr import Expr, evaluate
from nldc.expr import Value as Fact
from nldc.ir.branches import keeps_path, places_of
from nldc.ir.by_request import fixed
from nldc.ir.effects import last_fill, leaves_rows
from nldc.ir.facts import asks_prompt, facts_of, pair_lookup, prefix_facts, row_lookup
from nldc.ir.graph import Graph, Step
from nldc.ir.layout import Layout, Row, plain
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
    Repeat,
    Safety,
    Sample,
    Score,
    Select,
    Value,
)
from nldc.ir.picks import picked
from nldc.ir.scope import PROMPT
from nldc.ir.size import Size
from nldc.noise import uniform

LOWEST_TEMPERATURE = 1e-6
"""A choice at less is greedy."""


@dataclass(frozen=True)
class Entry:
    """A row that was computed: what it was, and the entries that it saw (itself included)."""

    token: int
    position: int
    sees: tuple[int, ...]
    adapter: str | None


class Model(Protocol):
    """A backbone without a cache. Of several `eos` ids, the order matters only to `eos_ids`."""

    vocabulary: int
    mask_token_id: int

    @property
    def eos(self) -> Collection[int]:
        """The ids that end a sequence."""
        ...

    def logits(self, entries: Sequence[Entry]) -> Sequence[Sequence[float]]:
        """Return the logits of every entry; entry i sees `entries[i].sees`."""
        ...


Choose = Callable[[Sequence[float], int], int]
"""The token for a row of logits that predicts an absolute position."""

At = Callable[[float], Choose]
"""How a token is chosen at a temperature of a `sample`'s own; below 1e-6, the likeliest is."""

View = Callable[[Sequence[float], int], Sequence[float]]
"""The logits that a score reads of a row's logits, and the position that they predict."""


Judge = Callable[[Sequence[Sequence[float]], "HeldRows"], Sequence[float]]
"""A trained sampler: of a block's logits and rows, how safe each row's likeliest token is."""


Noisy = Callable[[int, int, int], float]
"""The number of `noise` for the position that a row predicts, the node's number and the round."""


def seeded(seed: int = 0, sequence: int = 0) -> Noisy:
    """Return the noise of a sequence by its seed and its key."""

    def noise(position: int, stream: int, iteration: int) -> float:
        return uniform(seed, sequence, position, stream, iteration)

    return noise


def greedy(logits: Sequence[float], position: int) -> int:
    """Return the likeliest token, the lowest id of equal ones."""
    del position
    return max(range(len(logits)), key=lambda token: (logits[token], -token))


def _greedy_at(temperature: float) -> Choose:
    if temperature >= LOWEST_TEMPERATURE:
        raise ValueError(f"nothing says how to choose at the temperature {temperature}")
    return greedy


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
    branch: int = 0


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
    views: Mapping[str, View] | None = None,
    live: Sequence[int] = (1,),
    samplers: Mapping[str, Judge] | None = None,
    noise: Noisy | None = None,
    params: Mapping[str, int | float] | None = None,
    at: At | None = None,
) -> Run:
    """Decode one prompt.

    `adapters` are those that are loaded (None: all that the strategy declares). A run that emits
    nothing for `most_steps` steps is cut off there. `views` has what `filtered` and `processed`
    scores read; in greedy decoding both are the logits themselves. `live` is how many sequences
    `route` takes to be live in one step after another, over and over. `samplers` are those that
    are loaded; in place of another, the likeliest token's probability says how safe it is. `noise`
    is that of the sequence (None: of the first, with seed 0). `params` are what a request brings of
    the strategy's runtime params (None: the defaults); `at` chooses at a temperature of a
    `sample`'s own, which without it is greedy or refused.
    """
    brought = {name: each.default for name, each in graph.runtime.items()}
    graph = fixed(graph, {**brought, **(params or {})})
    loaded = [a.name for a in graph.adapters] if adapters is None else list(adapters)
    interpreter = _Interpreter(
        graph,
        model,
        choose,
        loaded,
        views or {},
        noise=noise or seeded(),
        samplers=samplers or {},
        at=at or _greedy_at,
    )
    return interpreter.run(prompt, max_new_tokens, most_steps, live)


def _step_of(graph: Graph, live: int, carry: Mapping[str, Any]) -> Step:
    """Return the step that is taken by a sequence that carries these values."""
    known = {"live": live, **{name: carry[f"carry.{name}"] for name in graph.counts}}
    return next(s for s in graph.steps if s.when is None or evaluate(s.when, known))


class _Look:
    """What a forward says of its rows and of each pair of rows: nothing of it depends on a token.

    `offsets` are positions from the end of the cache, `own` the rows of the forward that each row
    sees, `ahead` how far the position that it predicts is from its own.
    """

    def __init__(self, op: Forward, rows: Sequence[Row], kinds: Sequence[str]) -> None:
        def about(expr: Expr) -> list[Fact]:
            return [evaluate(expr, row_lookup(facts_of(row, kinds), kinds, {})) for row in rows]

        self.predicate, self.kinds = op.attention.predicate, kinds
        self.offsets = [int(offset) for offset in about(op.position)]
        self.facts = [
            facts_of(row, kinds, offset) for row, offset in zip(rows, self.offsets, strict=True)
        ]
        self.own = [
            [key for key, known in enumerate(self.facts) if self._sees(query, known)]
            for query in self.facts
        ]
        self.adapted = [False] * len(rows) if op.adapter is None else about(op.adapter_rows)
        self.appended = [row for row, stays in enumerate(about(op.append)) if stays]
        self.ahead = [int(ahead) for ahead in about(op.predicts_next)]
        self.asks_prompt = asks_prompt(self.predicate)
        self._behind: dict[tuple[int, bool], list[bool]] = {}

    def behind(self, row: int, cache: Sequence[int], prompt: int) -> Iterator[int]:
        """Return the entries of the cache that a row sees: it depends on how far back they lie.

        The first `prompt` of them are the prompt's.
        """
        seen = self._seen(row, len(cache), prompt=False)
        if self.asks_prompt:
            own = self._seen(row, len(cache), prompt=True)
            seen = [*own[:prompt], *seen[prompt:]]
        return compress(cache, seen)

    def _seen(self, row: int, length: int, *, prompt: bool) -> list[bool]:
        """Return which of so many entries a row sees, if all are the prompt's or none is."""
        known = self._behind.setdefault((row, prompt), [])
        while len(known) < length:
            key = prefix_facts(-1 - len(known), prompt=prompt)
            known.append(self._sees(self.facts[row], key))
        return known[:length][::-1]

    def _sees(self, query: Mapping[str, Fact], key: Mapping[str, Fact]) -> bool:
        return bool(evaluate(self.predicate, pair_lookup(query, key, self.kinds)))


@dataclass
class _Interpreter:
    graph: Graph
    model: Model
    choose: Choose
    loaded: Sequence[str]
    views: Mapping[str, View]
    noise: Noisy = field(default_factory=seeded)
    samplers: Mapping[str, Judge] = field(default_factory=dict)
    at: At = field(default_factory=lambda: _greedy_at)
    entries: list[Entry] = field(default_factory=list)
    cache: list[int] = field(default_factory=list)
    latest: range = range(0)
    prompt: int = 0
    history: list[int] = field(default_factory=list)
    nfe: int = 0
    looks: dict[tuple[int, int], _Look] = field(default_factory=dict)

    def run(
        self, prompt: Sequence[int], max_new_tokens: int, most_steps: int, live: Sequence[int]
    ) -> Run:
        graph = self.graph
        emitted: list[int] = []
        accepted: list[int] = []
        values: dict[str, Any] = {PROMPT: tuple(prompt)}
        self.history, self.prompt = list(prompt), len(prompt)
        self._nodes(graph.prefill.nodes, values, len(prompt))
        if graph.prefill_tokens is not None:
            emitted.extend(self._value(graph.prefill_tokens, values))
        carry = {f"carry.{c.name}": self._value(c.initial, values) for c in graph.carry}
        self.history = [*prompt, *emitted]
        for number in range(most_steps):
            if self._finished(emitted, max_new_tokens):
                break
            step = _step_of(graph, live[number % len(live)], carry)
            committed = len(self.cache)
            values = dict(carry)
            self._nodes(step.region.nodes, values, 0)
            tokens = self._emitted(step.emit.tokens, values)
            self.cache[committed:] = self.kept(step, values, self.cache[committed:])
            carry = {f"carry.{name}": self._value(made, values) for name, made in step.next}
            emitted.extend(tokens)
            self.history.extend(tokens)
            accepted.append(len(tokens))
        return Run(self._cut(emitted, max_new_tokens), self.nfe, tuple(accepted))

    def kept(self, step: Step, values: Mapping[str, Any], appended: Sequence[int]) -> Sequence[int]:
        """Return those of the appended entries that stay, in order."""
        keep = step.emit.keep
        if keep is None:
            return appended
        if not keeps_path(keep):
            return appended[: self._value(keep, values)]
        accepted: HeldAccepted = values[keep.node]
        places = places_of(step, self.graph.kinds)[accepted.branch]
        return [appended[place] for place in places[: accepted.rows]]

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
            case Sample(logits, mask_token, temperature):
                held = self._logits(logits, values, prompt_length)
                if mask_token == "forbidden":
                    held = self._without_mask(held)
                choose = self.choose
                if temperature is not None:
                    choose = self.at(float(evaluate(temperature, {})))
                return tuple(map(choose, held.rows, held.positions))
            case Score():
                return self._score(node.op, values, prompt_length)
            case Safety(logits, rows, sampler):
                seen = self._logits(logits, values, prompt_length).rows
                judge = self.samplers.get(sampler, confidence)
                return tuple(judge(seen, self._value(rows, values)))
            case Noise(logits, stream, fixed):
                places = self._logits(logits, values, prompt_length).positions
                number = iteration if fixed is None else fixed
                return tuple(self.noise(place, stream, number) for place in places)
            case Select():
                return self._select(node.op, values, iteration)
            case Fill(rows, where, tokens):
                return fill(
                    self._value(rows, values),
                    self._value(where, values),
                    self._value(tokens, values),
                )
            case Mask(rows, where):
                held_rows: HeldRows = self._value(rows, values)
                return mask(held_rows, self._value(where, values), self.model.mask_token_id)
            case Mix():
                weighed = node.op.weighed
                return mix(
                    [self._logits(part, values, prompt_length) for part, _ in weighed],
                    [float(evaluate(w, {})) if isinstance(w, Expr) else w for _, w in weighed],
                )
            case Lookup(length, ngram):
                return lookup(self.history, length, ngram)
            case Join(parts):
                return tuple(token for part in parts for token in self._value(part, values))
            case Accept(draft, target, offset, branches):
                drafted, chosen = _tokens(self._value(draft, values)), self._value(target, values)
                if branches:
                    return longest_branch(drafted, chosen, offset, branches)
                return accept(drafted, chosen, offset)
            case Leading(scores, at_least, at_most, low):
                return leading(self._value(scores, values), at_least, at_most, low)
            case Reckon(expr, terms, low, high):
                counts = {name: self._value(value, values) for name, value in terms}
                return max(low, min(high, int(evaluate(expr, counts))))
            case Candidates(logits, count):
                each = self._logits(logits, values, prompt_length).rows
                return tuple(token for row in each for token in candidates(row, count))
            case Recall(pool, entry, after, count):
                (token,) = _tokens(self._value(after, values))
                return recall(_tokens(self._value(pool, values)), entry, token, count)
            case Repeat():
                return self._repeat(node.name, node.op, values, prompt_length)
            case _:
                raise untold(node.op, "nldc/interpret.py")

    def _score(self, op: Score, values: Mapping[str, Any], prompt_length: int) -> tuple[float, ...]:
        held = self._logits(op.logits, values, prompt_length)
        if op.mask_token == "ignored":
            held = self._without_mask(held)
        view = self.views.get(op.of)
        if view is not None:
            viewed = map(view, held.rows, held.positions)
            held = HeldLogits(tuple(map(tuple, viewed)), held.positions)
        chosen = None if op.tokens is None else self._value(op.tokens, values)
        return tuple(
            score(row, op.by, None if chosen is None else chosen[number])
            for number, row in enumerate(held.rows)
        )

    def _without_mask(self, held: HeldLogits) -> HeldLogits:
        mask = self.model.mask_token_id
        rows = tuple((*row[:mask], -math.inf, *row[mask + 1 :]) for row in held.rows)
        return HeldLogits(rows, held.positions)

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
        looks = self._look(op, prompt_length)
        tokens = _tokens(self._value(op.rows, values))
        first = len(self.entries)
        length, size = len(self.cache), len(tokens)  # fewer rows than the layout's, of a part
        for row, offset in enumerate(looks.offsets[:size]):
            own = (first + key for key in looks.own[row] if key < size)
            sees = (*looks.behind(row, self.cache, self.prompt), *own)
            adapter = op.adapter if looks.adapted[row] and op.adapter in self.loaded else None
            self.entries.append(Entry(tokens[row], length + offset, sees, adapter))
        logits = self.model.logits(self.entries)
        self.latest = range(first, len(self.entries))
        self.cache.extend(first + row for row in looks.appended if row < size)
        self.nfe += op.counted
        places = list(zip(looks.offsets, looks.ahead, strict=True))[:size]
        return HeldLogits(
            tuple(tuple(logits[first + row]) for row in range(size)),
            tuple(length + offset + ahead for offset, ahead in places),
        )

    def _look(self, op: Forward, prompt_length: int) -> _Look:
        """Return what a forward says of its rows, asked once in a run."""
        key = (id(op), prompt_length)
        if key not in self.looks:
            self.looks[key] = _Look(op, op.layout.rows(prompt_length), self.graph.kinds)
        return self.looks[key]

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
        ends = () if op.eos == "ignored" else tuple(self.model.eos)
        if op.eos_ids == "first":
            ends = ends[:1]
        inner: dict[str, Any] = {}
        for iteration in range(op.at_most):
            if op.until == "full" and iteration >= op.at_least and is_full(held, ends):
                break
            before = held
            inner = {**values, f"{name}:{op.variable}": held}
            self._nodes(op.body.nodes, inner, prompt_length, iteration)
            held = self._value(op.result, inner)
            if op.eos == "fills":
                held = fill_after_eos(held, ends)
            if op.until == "unchanged" and held == before:
                break
        if op.exhausted == "fill" and not is_full(held, ends):
            last = last_fill(op)
            assert last is not None
            held = fill(held, held.masked, self._value(last.tokens, inner))
        if leaves_rows(op):
            self.cache.extend(self.latest)
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
        rows = layout.rows(len(values.get(PROMPT, ())))
        chosen = picked(rows, value.picks, self.graph.kinds, others)
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


def fill(held: HeldRows, where: Sequence[bool], tokens: Sequence[int]) -> HeldRows:
    """Write tokens where chosen; those rows are not masked any more."""
    triples = zip(where, tokens, held.tokens, strict=True)
    return HeldRows(
        tuple(new if take else old for take, new, old in triples),
        tuple(masked and not take for masked, take in zip(held.masked, where, strict=True)),
    )


def mask(held: HeldRows, where: Sequence[bool], mask_token_id: int) -> HeldRows:
    """Mask rows where chosen: they hold the mask token again."""
    return HeldRows(
        tuple(mask_token_id if m else t for t, m in zip(held.tokens, where, strict=True)),
        tuple(masked or m for masked, m in zip(held.masked, where, strict=True)),
    )


def fill_after_eos(held: HeldRows, eos: Collection[int]) -> HeldRows:
    """Let every masked row after the first EOS become that EOS."""
    places = [
        place
        for place, (token, masked) in enumerate(zip(held.tokens, held.masked, strict=True))
        if token in eos and not masked
    ]
    if not places:
        return held
    after = tuple(m and place > places[0] for place, m in enumerate(held.masked))
    return fill(held, after, (held.tokens[places[0]],) * len(after))


def is_full(held: HeldRows, eos: Collection[int]) -> bool:
    """Whether no row is masked, or an EOS stands before the first masked row."""
    for token, masked in zip(held.tokens, held.masked, strict=True):
        if masked:
            return False
        if token in eos:
            return True
    return True


def mix(logits: Sequence[HeldLogits], weights: Sequence[float]) -> HeldLogits:
    """Add logits of the same positions, each times its weight; see `Mix.weighed`."""
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
    most = min(len(draft) - offset, len(target) - 1)
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


def confidence(logits: Sequence[Sequence[float]], rows: HeldRows) -> tuple[float, ...]:
    """Return the probability of each row's likeliest token."""
    del rows
    return tuple(score(row, "probability", greedy(row, 0)) for row in logits)


def leading(scores: Sequence[float], at_least: Expr | None, at_most: Expr | None, low: int) -> int:
    """Count the rows, from the first on, whose scores are within the bounds; `low` at least."""
    found = 0
    for each in scores:
        if at_least is not None and each < evaluate(at_least, {}):
            break
        if at_most is not None and each > evaluate(at_most, {}):
            break
        found += 1
    return max(low, found)


def longest_branch(
    draft: Sequence[int], target: Sequence[int], offset: int, branches: Sequence[Sequence[int]]
) -> HeldAccepted:
    """Accept in the branch with most matches, of equals the first; see `accept`."""
    found = [
        replace(
            accept([draft[row] for row in rows], [target[row] for row in rows], offset), branch=n
        )
        for n, rows in enumerate(branches)
    ]
    return max(found, key=lambda each: (each.matches, -each.branch))


def candidates(row: Sequence[float], count: int) -> tuple[int, ...]:
    """Return the likeliest tokens of a row, the last of all again where there are fewer."""
    order = sorted(range(len(row)), key=lambda token: (-row[token], token))[:count]
    return tuple(order + order[-1:] * (count - len(order)))


def recall(pool: Sequence[int], entry: int, after: int, count: int) -> tuple[int, ...]:
    """Return what follows a token in entries of a pool; see `Recall`."""
    entries = [tuple(pool[at : at + entry]) for at in range(0, len(pool), entry)]
    first = [each[0] == after and each not in entries[:n] for n, each in enumerate(entries)]
    order = sorted(range(len(entries)), key=lambda n: not first[n])
    return tuple(token for n in order[:count] for token in entries[n][1:])


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
