"""The three models of every op, held against each other while a strategy is interpreted.

`ROWS` is the table: for each op of `nldc/ir/ops.py`, how the runtime is asked the same question as
the interpreter just was. `claims` checks what the proof says of every value that a step made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import torch
from torch import Tensor

from nldc.check.lossless import held as proof
from nldc.check.lossless.terms import MASK, Term
from nldc.check.lossless.trace import Agreed, Trace, Tracer
from nldc.codegen.ordered import Ordered
from nldc.expr import Expr, evaluate, references, to_python
from nldc.interpret import (
    Choose,
    HeldAccepted,
    HeldLogits,
    HeldRows,
    _Interpreter,
    fill,
    fill_after_eos,
    greedy,
    is_full,
)
from nldc.ir.by_request import fixed
from nldc.ir.graph import Graph
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
from nldc.runtime.rows.table import Table
from nldc.runtime.step import ops
from nldc.runtime.step.contract import StepBatch
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.sequences import Sequences
from nldc.runtime.step.values import Logits, Rows
from tests.lossless.loops_at_random import Guesser
from tests.lossless.params_at_random import drawn


@dataclass
class Watched(_Interpreter):
    """An interpreter that asks the runtime the same of every op, and remembers every value."""

    asked: Counter[type] = field(default_factory=Counter)
    region: dict[str, Any] = field(default_factory=dict)

    def _node(self, node: Node, values: dict[str, Any], prompt_length: int, iteration: int) -> Any:
        before = len(self.cache)
        result = super()._node(node, values, prompt_length, iteration)
        asked = _Asked(self, node, values, prompt_length, iteration, before)
        ROWS[type(node.op)](asked, result)
        self.asked[type(node.op)] += 1
        return result


@dataclass(frozen=True)
class _Asked:
    """One op with the values that it found."""

    run: Watched
    node: Node
    values: Mapping[str, Any]
    prompt_length: int
    iteration: int
    cached: int

    @property
    def op(self) -> Any:
        return self.node.op

    @property
    def batch(self) -> StepBatch:
        model, device = self.run.model, torch.device("cpu")
        history = [int(token) for token in self.run.history]
        member = Member(0, 0, eos=tuple(model.eos), history=lambda: history)
        return cast(StepBatch, Sequences(Lineup.of([member], model.mask_token_id, device)))

    def value(self, value: Value) -> Any:
        return self.run._value(value, self.values)

    def tokens(self, value: Value) -> Tensor:
        found = self.value(value)
        return tensor(found.tokens if isinstance(found, HeldRows) else found)

    def rows(self, value: Value) -> Rows:
        return rows_of(self.value(value))

    def mask(self, value: Value) -> Tensor:
        return torch.tensor([list(self.value(value))], dtype=torch.bool)

    def logits(self, value: Value) -> Logits:
        return logits_of(self.run._logits(value, self.values, self.prompt_length))


def chosen_at(temperature: float) -> Choose:
    """Return the choice at a temperature of a sample's own: greedy, or with the runtime's noise."""
    if temperature < 1e-6:
        return greedy
    alone = Sequences(Lineup.of([Member(0, 0)], 0, torch.device("cpu")))

    def choose(row: Sequence[float], position: int) -> int:
        logits = Logits(
            torch.tensor([[list(row)]], dtype=torch.float64), torch.tensor([[position]])
        )
        return int(alone.sample(logits, temperature=temperature))

    return choose


def tensor(tokens: Sequence[int]) -> Tensor:
    """Return tokens as a batch of one."""
    return torch.tensor([[int(token) for token in tokens]], dtype=torch.int64)


def rows_of(held: HeldRows) -> Rows:
    """Return rows as a batch of one."""
    return Rows(tensor(held.tokens), torch.tensor([list(held.masked)], dtype=torch.bool))


def logits_of(held: HeldLogits) -> Logits:
    """Return logits as a batch of one."""
    values = torch.tensor([[list(row) for row in held.rows]], dtype=torch.float64)
    return Logits(values, torch.tensor([list(held.positions)]))


def same_rows(found: Rows, held: HeldRows) -> None:
    assert found.tokens[0].tolist() == [int(token) for token in held.tokens]
    assert found.masked[0].tolist() == list(held.masked)


# The runtime, op by op


def _lay_rows(asked: _Asked, held: HeldRows) -> None:
    layout = asked.op.layout
    if layout.dynamic:
        return
    segments: list[Any] = []
    for segment, part in zip(layout.segments, asked.op.parts, strict=True):
        sizes = tuple(size.fixed for size in segment.sizes)
        many = sizes[0] if len(set(sizes)) == 1 else sizes
        segments.append(many if part is None else asked.tokens(part))
    if layout.groups == 1:
        same_rows(ops.rows(asked.batch, *segments), held)
    else:
        found = ops.grouped_rows(
            asked.batch, layout.groups, *segments, by_segment=layout.by_segment
        )
        same_rows(found, held)


def _forward(asked: _Asked, held: HeldLogits) -> None:
    plan = Ordered(asked.op, asked.run.graph.kinds)
    facts = plan.facts(asked.prompt_length)
    place = {row.row: at for at, row in enumerate(plan.order(asked.prompt_length))}
    order = [place[row] for row in range(len(held.positions))]
    predicted = [
        asked.cached + facts["offset"][place] + facts["predicts_next"][place] for place in order
    ]
    assert predicted == list(held.positions)
    kept, room = len(asked.run.cache) - asked.cached, plan.appended().at(asked.prompt_length)
    is_part = plan.dynamic or len(order) < plan.size.fixed
    assert kept <= room if is_part else kept == room
    for row, entry in enumerate(asked.run.entries[-len(order) :]):
        adapted = facts["adapted"][order[row]] and asked.op.adapter in asked.run.loaded
        assert (entry.adapter is not None) == bool(adapted)


def _sample(asked: _Asked, tokens: Sequence[int]) -> None:
    op, temperature = asked.op, None
    if op.temperature is not None:
        temperature = float(evaluate(op.temperature, {}))
        each = torch.tensor([[temperature]], dtype=torch.float64)
        found = asked.batch.sample(asked.logits(op.logits), op.mask_token, each)
        assert found[0].tolist() == [int(token) for token in tokens]
    found = asked.batch.sample(asked.logits(op.logits), op.mask_token, temperature)
    assert found[0].tolist() == [int(token) for token in tokens]


def _score(asked: _Asked, scores: Sequence[float]) -> None:
    op = asked.op
    given = [] if op.tokens is None else [asked.tokens(op.tokens)]
    score = getattr(asked.batch, op.by)
    found = score(asked.logits(op.logits), *given, op.of, op.mask_token)
    assert torch.allclose(found, torch.tensor([list(scores)], dtype=torch.float64))


def _safety(asked: _Asked, scores: Sequence[float]) -> None:
    op = asked.op
    rows = rows_of(asked.value(op.rows))
    found = asked.batch.safety(asked.logits(op.logits), rows, op.sampler)
    assert torch.allclose(found, torch.tensor([list(scores)], dtype=torch.float64))


def _noise(asked: _Asked, scores: Sequence[float]) -> None:
    op = asked.op
    iteration = asked.iteration if op.iteration is None else op.iteration
    found = asked.batch.noise(asked.logits(op.logits), op.stream, iteration)
    assert found[0].tolist() == list(scores)


def _select(asked: _Asked, chosen: Sequence[bool]) -> None:
    op, among = asked.op, asked.mask(asked.op.among)
    left = ops.left(among)
    names = {"iteration": asked.iteration, "left": left}

    def rule(expr: Expr | None) -> Any:
        return None if expr is None else eval(to_python(expr, lambda ref: ref.root), names)

    where = None
    if op.where is not None:
        text = to_python(op.where, lambda ref: ref.root)
        where = eval(f"lambda row, rank, score: {text}", names)
        if not {"row", "rank", "score", "left"} & {ref.root for ref in references(op.where)}:
            where = None  # a condition of the round alone, which code generation spreads
            everything = bool(evaluate(op.where, {"iteration": asked.iteration}))
            if everything:
                assert all(take == free for take, free in zip(chosen, among[0], strict=True))
                return
    found = ops.select(
        among,
        torch.tensor([list(asked.value(op.score))], dtype=torch.float64),
        at_least=rule(op.at_least), at_most=rule(op.at_most), best=rule(op.best),
        within=rule(op.within), always_best=rule(op.always_best), where=where,
        less_is_surer=op.less_is_surer,
    )  # fmt: skip
    assert found[0].tolist() == list(chosen)


def _mix(asked: _Asked, held: HeldLogits) -> None:
    parts = [asked.logits(part) for part, _ in asked.op.weighed]
    due = [torch.rand(part.positions.shape) < 0.5 for part in parts]
    dated = [Logits(p.values, p.positions, d) for p, d in zip(parts, due, strict=True)]
    weights = [weight for _, weight in asked.op.weighed]
    each = [torch.tensor([[weight]], dtype=torch.float64) for weight in weights]
    found = asked.batch.mix(dated, weights)
    assert torch.equal(asked.batch.mix(dated, each).values, found.values)
    assert found.positions[0].tolist() == list(held.positions)
    assert found.due is due[0]
    assert torch.allclose(found.values, torch.tensor([held.rows], dtype=torch.float64))


def _fill(asked: _Asked, held: HeldRows) -> None:
    op = asked.op
    same_rows(ops.fill(asked.rows(op.rows), asked.mask(op.where), asked.tokens(op.tokens)), held)


def _mask(asked: _Asked, held: HeldRows) -> None:
    op = asked.op
    same_rows(ops.mask(asked.batch, asked.rows(op.rows), asked.mask(op.where)), held)


def _join(asked: _Asked, tokens: Sequence[int]) -> None:
    parts = [asked.tokens(part) for part in asked.op.parts]
    assert ops.join(*parts)[0].tolist() == [int(token) for token in tokens]


def _lookup(asked: _Asked, tokens: Sequence[int]) -> None:
    found = ops.lookup(asked.batch, asked.op.length, asked.op.ngram)
    assert found[0].tolist() == [int(token) for token in tokens]


def _candidates(asked: _Asked, tokens: Sequence[int]) -> None:
    found = ops.candidates(asked.batch, asked.logits(asked.op.logits), asked.op.count)
    assert found[0].tolist() == [int(token) for token in tokens]


def _recall(asked: _Asked, tokens: Sequence[int]) -> None:
    op = asked.op
    found = ops.recall(asked.tokens(op.pool), op.entry, asked.tokens(op.after), op.count)
    assert found[0].tolist() == [int(token) for token in tokens]


def _accept(asked: _Asked, held: HeldAccepted) -> None:
    op = asked.op
    drafted, target = asked.tokens(op.draft), asked.tokens(op.target)
    if op.branches:
        found = ops.accept_longest_branch(drafted, target, Table.of(op.branches))
        assert found.branch is not None
        assert found.branch.item() == held.branch
        ways = (found,)
    else:
        most = min(drafted.shape[1] - op.offset, target.shape[1] - 1)
        behind = torch.full(
            (1, 3), int(held.bonus[0])
        )  # of a part that a Count cuts: agrees or not
        longer = torch.cat([drafted, behind], 1), torch.cat([target, behind], 1)
        part = ops.accept_longest_prefix(*longer, offset=op.offset, most=torch.tensor([most]))
        found = ops.accept_longest_prefix(drafted, target, offset=op.offset)
        ways = (found, part)
    for each in ways:
        assert (each.matches.item(), each.rows.item()) == (held.matches, held.rows)
        assert each.bonus[0].tolist() == list(held.bonus)
    assert found.tokens[0, : held.rows].tolist() == list(held.tokens)
    assert found.drafted[0, : len(held.drafted)].tolist() == list(held.drafted)


def _leading(asked: _Asked, count: int) -> None:
    op = asked.op
    bounds = {"at_least": op.at_least, "at_most": op.at_most}
    given = {name: evaluate(expr, {}) for name, expr in bounds.items() if expr is not None}
    scores = torch.tensor([list(asked.value(op.scores))], dtype=torch.float64)
    assert ops.leading(scores, low=op.low, **given).tolist() == [count]


def _reckon(asked: _Asked, count: int) -> None:
    op = asked.op
    terms = {name: torch.tensor([asked.value(value)]) for name, value in op.terms}
    found = ops.number(asked.batch, count)
    if terms:
        names = {name: f"terms[{name!r}]" for name in terms}
        found = eval(to_python(op.expr, names), {"terms": terms})
    assert ops.held(found, low=op.low, high=op.high).tolist() == [count]


def _repeat(asked: _Asked, held: HeldRows) -> None:
    """Ask of rows as a loop finds, leaves and may hold them: is it over, what does it fill."""
    op, model = asked.op, asked.run.model
    ends = () if op.eos == "ignored" else tuple(model.eos)[: 1 if op.eos_ids == "first" else None]
    first = op.eos_ids == "first"
    random = Random(len(asked.run.entries))
    between = HeldRows(
        tuple(random.randrange(model.vocabulary) for _ in held.tokens),
        tuple(random.random() < 0.4 for _ in held.tokens),
    )
    new = tuple(random.randrange(model.vocabulary) for _ in held.tokens)
    for one in (held, between):
        for other in (held, between):
            assert ops.differ(rows_of(one), rows_of(other)).item() == (one != other)
    for some in (asked.value(op.initial), held, between):
        rows = rows_of(some)
        if op.eos == "ignored":
            assert ops.has_masks(rows).item() != is_full(some, ())
        else:
            assert ops.unfinished(asked.batch, rows, first=first).item() != is_full(some, ends)
            filled = ops.fill_after_eos(asked.batch, rows, first=first) if ends else rows
            same_rows(filled, fill_after_eos(some, ends))
        for active in (True, False):
            found = ops.fill_left(torch.tensor([active]), rows, tensor(new))
            same_rows(found, fill(some, some.masked, new) if active else some)
            own = ops.begun(rows)
            ops.advance(torch.tensor([active]), own, rows_of(between))
            same_rows(own, between if active else some)
            same_rows(rows, some)


Row = Callable[[_Asked, Any], None]
ROWS: Mapping[type, Row] = {
    LayRows: cast(Row, _lay_rows),
    Forward: cast(Row, _forward),
    Sample: cast(Row, _sample),
    Score: cast(Row, _score),
    Safety: cast(Row, _safety),
    Noise: cast(Row, _noise),
    Select: cast(Row, _select),
    Mix: cast(Row, _mix),
    Lookup: cast(Row, _lookup),
    Candidates: cast(Row, _candidates),
    Recall: cast(Row, _recall),
    Fill: cast(Row, _fill),
    Mask: cast(Row, _mask),
    Join: cast(Row, _join),
    Accept: cast(Row, _accept),
    Leading: cast(Row, _leading),
    Reckon: cast(Row, _reckon),
    Repeat: cast(Row, _repeat),
}


# The proof's claims


def outcome_of(values: Mapping[str, Any]) -> dict[str, Agreed | int]:
    """Return how many drafts each `accept` matched, in which branch, and what Counts were."""
    matched: dict[str, Agreed | int] = {
        name: Agreed(held.matches, held.branch)
        for name, held in values.items()
        if isinstance(held, HeldAccepted)
    }
    return matched | {n: held for n, held in values.items() if isinstance(held, int)}


@dataclass
class Claims:
    """What a trace says of the values of one run of its region."""

    trace: Trace
    values: Mapping[str, Any]
    base: int
    model: Guesser
    known: dict[Term, int] = field(default_factory=dict)

    def check(self) -> None:
        """Fail at the first claim that does not hold."""
        self.known[MASK] = self.model.mask_token_id
        for name, held in self.trace.values.items():
            if name in self.values:
                self._value(name, held, self.values[name])
        for name, held in self.trace.values.items():
            if isinstance(held, proof.HeldRows) and name in self.values:
                self._relations(held, self.values[name])
        self._origins()
        for one, other in self.trace.equal:
            assert self.known.get(one) == self.known.get(other)

    def _token(self, term: Term, token: int) -> None:
        assert self.known.setdefault(term, int(token)) == token, (term, token, self.known[term])

    def _value(self, name: str, claim: Any, held: Any) -> None:
        if isinstance(claim, proof.HeldRows):
            assert len(claim.rows) == len(held.tokens)
            for row, token, masked in zip(claim.rows, held.tokens, held.masked, strict=True):
                assert row.masked in (None, masked), (name, row)
                self._token(row.token, token)
                expected = row.blank if masked else row.filled
                assert expected is not None
                if not masked:
                    self._token(expected, token)
                else:
                    assert token == self.model.mask_token_id
        elif isinstance(claim, proof.HeldMask):
            for flag, taken in zip(claim.rows, held, strict=True):
                assert flag in (None, taken), name
            for other in claim.within:
                masked = self._masked(other, len(held))
                assert all(m for m, take in zip(masked, held, strict=True) if take), (name, other)
            for other in claim.covers:
                masked = self._masked(other, len(held))
                assert all(take for m, take in zip(masked, held, strict=True) if m), (name, other)
        elif isinstance(claim, proof.HeldLogits):
            assert len(claim.positions) == len(held.positions)
            if self.trace.unknown:
                return  # rows that a loop left in the cache lie before these, and are not traced
            for position, place in zip(claim.positions, held.positions, strict=True):
                assert position is None or self.base + position == place, name
        elif isinstance(claim, proof.HeldAccepted):
            assert (claim.matches, claim.rows) == (held.matches, held.rows)
            for part in ("tokens", "drafted", "bonus"):
                self._value(name, getattr(claim, part), getattr(held, part))
        elif isinstance(claim, int):
            assert claim == held, name
        elif isinstance(claim, tuple):
            tokens = held.tokens if isinstance(held, HeldRows) else held
            assert len(claim) == len(tokens), name
            for term, token in zip(claim, tokens, strict=True):
                self._token(term, token)

    def _masked(self, name: str, rows: int) -> Sequence[bool]:
        held = self.values.get(name)
        return held.masked if isinstance(held, HeldRows) else (True,) * rows

    def _relations(self, claim: proof.HeldRows, held: HeldRows) -> None:
        for other in claim.within:
            masked = self._masked(other, len(held.masked))
            assert all(old or not new for old, new in zip(masked, held.masked, strict=True))
        for other in claim.keeps:
            before = self.values.get(other)
            if isinstance(before, HeldRows):
                for row, masked in enumerate(before.masked):
                    same = not held.masked[row] and held.tokens[row] == before.tokens[row]
                    assert masked or same
        assert not claim.ended or is_full(held, self.model.eos)

    def _origins(self) -> None:
        """A term is one of those that it may be, as far as these have a value after the region."""
        for term, token in self.known.items():
            found = self._possible(term, frozenset())
            assert found is None or token in found, (term, token, found)

    def _possible(self, term: Term, seen: frozenset[Term]) -> set[int] | None:
        origins = self.trace.origins.get(term)
        if term in seen:
            return set()
        if origins is None:
            if term[0] == "unfilled":
                return {self.model.mask_token_id}
            if term[0] == "copied":
                return set(self.model.eos)
            return None if term not in self.known else {self.known[term]}
        found: set[int] = set()
        for origin in origins:
            some = self._possible(origin, seen | {term})
            if some is None:
                return None
            found |= some
        return found


def watch(graph: Graph, prompt: Sequence[int], model: Guesser, steps: int = 4) -> Counter[type]:
    """Interpret a strategy and check all three models of every op; return what was asked.

    Of params that requests bring some values are interpreted; what the proof says holds for all.
    """
    ran = fixed(graph, drawn(graph, sum(prompt)))
    watched = Watched(ran, model, greedy, [a.name for a in graph.adapters], {}, at=chosen_at)
    tracer = Tracer(graph)
    values: dict[str, Any] = {"$prompt": tuple(prompt)}
    watched.history, watched.prompt = list(prompt), len(prompt)
    watched._nodes(ran.prefill.nodes, values, len(prompt))
    trace = tracer.prefill(len(prompt), outcome_of(values))
    Claims(trace, values, 0, model).check()
    _same_cache(watched, trace, 0, 0)
    carry = {f"carry.{c.name}": watched._value(c.initial, values) for c in graph.carry}
    number = len(prompt) % len(graph.steps)
    step, nodes = graph.steps[number], ran.steps[number].region.nodes
    for _ in range(steps):
        committed, first = len(watched.cache), len(watched.entries)
        values = dict(carry)
        watched._nodes(nodes, values, 0)
        trace = tracer.step(step, outcome_of(values))
        Claims(trace, {**values}, committed, model).check()
        if not any(isinstance(node.op, Repeat) for node in step.region.nodes):
            _same_cache(watched, trace, committed, first)
        tokens = watched._value(step.emit.tokens, values)
        tokens = getattr(tokens, "tokens", tokens)
        claimed = tracer.value(trace, step.emit.tokens)
        assert len(getattr(claimed, "tokens", claimed)) == len(tokens)
        appended = watched.cache[committed:]
        kept = list(watched.kept(step, values, appended))
        if not trace.unknown:  # else rows that a loop left lie there, and are not traced
            assert [appended.index(entry) for entry in kept] == [
                trace.cache.index(number) for number in tracer.kept(step, trace)
            ]
        watched.cache[committed:] = kept
        carry = {f"carry.{name}": watched._value(made, values) for name, made in step.next}
        watched.history.extend(tokens)
        if any(token in model.eos for token in tokens):
            break
    return watched.asked


def _same_cache(watched: Watched, trace: Trace, committed: int, first: int) -> None:
    """The rows that the trace computed are those that ran: token, place, sight and adapter."""
    ran = watched.entries[first:]
    if len(ran) != len(trace.entries):
        return  # a loop computed more
    for entry, real in zip(trace.entries, ran, strict=True):
        assert committed + entry.position == real.position
        prefix, numbers = entry.sees()
        assert entry.adapted == (real.adapter is not None)
        own = {number - first for number in real.sees if number >= first}
        if prefix is not None:
            assert own == set(numbers), entry.node
            assert len(real.sees) - len(own) == (committed if prefix else 0)
    kept = [number - first for number in watched.cache[committed:]]
    assert kept == list(trace.cache)
