"""From the nodes of a prefill or of a step to the instructions of a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from nldc.codegen import program as p
from nldc.codegen.lower_counts import CountLowering
from nldc.codegen.lower_params import Asking, Params
from nldc.codegen.names import PREFILL, STEP, Scope, node_names
from nldc.codegen.ordered import Ordered
from nldc.codegen.tables import Tables
from nldc.codegen.values import chosen, layout_of, size_of, type_of
from nldc.diagnostics import untold
from nldc.expr import Expr, fold, references
from nldc.ir.branches import keeps_path, places_of
from nldc.ir.effects import forward_of, last_fill, leaves_rows
from nldc.ir.graph import Graph, Step, walk
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
    Op,
    Recall,
    Reckon,
    Repeat,
    Safety,
    Sample,
    Score,
    Select,
    Value,
)
from nldc.ir.picks import prompt_runs
from nldc.ir.scope import PROMPT
from nldc.ir.size import Size
from nldc.ir.types import Rows

RULES = ("at_least", "at_most", "best", "within", "always_best")
COUNTING = {"best": "count", "always_best": "count"}
"""The rules that count rows; the others are of scores."""


@dataclass(frozen=True)
class Module:
    """What the methods of a program share: names, and for each forward its rows, layout, pattern;
    tables, and what is asked of params, grow as methods are lowered.
    """

    scope: Scope
    rows: Mapping[str, Ordered]
    layouts: Mapping[str, p.Layout]
    patterns: Mapping[str, p.Pattern]
    tables: Tables
    params: Params


@dataclass(frozen=True)
class _Round:
    """What a loop's body knows of it: who is still active, how often it has run, whether it holds
    the keys of who is not.
    """

    active: str
    iteration: str
    hold: bool


class MethodLowering:
    """Lowers the prefill of a graph (None), or one of its steps."""

    def __init__(self, module: Module, graph: Graph, step: Step | None) -> None:
        self.module = module
        self.graph = graph
        self.step = step
        self.nodes = (graph.prefill if step is None else step.region).nodes
        self.carried = () if step is None else graph.carry
        self.scope = module.scope.inside(PREFILL if step is None else STEP)
        inner = [f"carry.{each.name}" for each in self.carried]
        self.names = node_names((*inner, *(node.name for node in walk(self.nodes))), self.scope)
        for node in walk(self.nodes):
            if isinstance(node.op, Repeat):
                self.names[f"{node.name}:{node.op.variable}"] = self.names[node.name]
        self.counts = CountLowering(graph, module.tables, self._value)
        self.heads: dict[Value, str] = {}
        self.held: dict[str, str] = {}
        self.asking = Asking(module.params, self.scope)

    def method(self, name: str) -> p.Method:
        """Return the method."""
        body, commit = self._body(self.nodes, None), self._commit()
        read = {use.register for part in (*p.walk(body), commit) for use in p.uses(part)}
        carried = [(each.name, self.names[f"carry.{each.name}"]) for each in self.carried]
        return p.Method(
            name=name,
            regions=tuple(dict.fromkeys(node.name.split(".", 1)[0] for node in self.nodes)),
            carried=tuple(
                (name, register)
                for name, register in carried
                if register in read or name not in self.graph.counts
            ),
            body=body,
            commit=commit,
            counts=tuple(self.graph.counts),
            asked=self.asking.asked,
        )

    def _commit(self) -> p.Commit:
        tokens, keep, region = self.graph.prefill_tokens, None, self.graph.prefill
        made = tuple((item.name, item.initial) for item in self.graph.carry)
        if self.step is not None:
            tokens, keep, made = self.step.emit.tokens, self.step.emit.keep, self.step.next
            region = self.step.region
        path: p.ByCount | None = None
        if self.step is not None and keep is not None and keeps_path(keep):
            places = places_of(self.step, self.graph.kinds)
            table = self.module.tables.of(f"{keep.node}_path", places)
            path = p.ByCount(table, p.Use(self.names[keep.node], "branch"), 0)
            keep = replace(keep, field="rows")
        return p.Commit(
            tokens=None if tokens is None else self._value(tokens),
            count=None if tokens is None else self.counts.counted(tokens),
            keep=self.counts.kept(region, keep),
            carry=tuple((name, self._value(value)) for name, value in made),
            told=self.graph.routed_by,
            path=path,
        )

    def _body(self, nodes: Sequence[Node], inside: _Round | None) -> tuple[p.Instruction, ...]:
        """Lower nodes in order; logits are computed once, before who first asks for them."""
        outer = dict(self.heads)
        body: list[p.Instruction] = []
        for node in nodes:
            for value in _logits_of(node):
                is_forward = isinstance(self.graph.node(value.node).op, Forward)
                if is_forward and value not in self.heads:
                    head = self.scope.allot(f"{self.names[value.node]}_logits")
                    body.append(p.Head(head, p.Origin.of(node), self._states(value)))
                    self.heads[value] = head
            body.append(self._node(node, inside))
        # A loop's body may not run: what it computed is not there behind it.
        self.heads = outer
        return tuple(body)

    def _node(self, node: Node, inside: _Round | None) -> p.Instruction:
        name, origin = self.names[node.name], p.Origin.of(node)
        match node.op:
            case LayRows():
                return self._lay_rows(name, origin, node.op)
            case Forward():
                return self._forward(name, node, node.op, inside)
            case Sample(logits, mask_token, temperature):
                at = None if temperature is None else self.asking.number(temperature, "temperature")
                return p.Choose(name, origin, self._logits(logits), mask_token, at)
            case Safety(logits, rows, sampler):
                return p.Safety(name, origin, self._logits(logits), self._value(rows), sampler)
            case Score(logits, tokens, by, of, mask_token):
                given = None if tokens is None else self._value(tokens)
                return p.Score(name, origin, by, self._logits(logits), given, of, mask_token)
            case Noise(logits, stream, fixed):
                places = self._predicting(logits)
                number = inside.iteration if fixed is None and inside is not None else fixed or 0
                return p.Noise(name, origin, places, stream, number)
            case Select():
                return self._select(name, origin, node.op, inside)
            case Fill(rows, where, tokens):
                return p.Fill(name, origin, *(self._value(v) for v in (rows, where, tokens)))
            case Mask(rows, where):
                return p.Mask(name, origin, self._value(rows), self._value(where))
            case Mix():
                weighed = node.op.weighed
                weights = tuple(
                    self.asking.number(weight, "score") if isinstance(weight, Expr) else weight
                    for _, weight in weighed
                )
                values = tuple(self._logits(part) for part, _ in weighed)
                return p.Mix(name, origin, values, weights)
            case Lookup(length, ngram):
                return p.Lookup(name, origin, length, ngram)
            case Join(parts):
                return p.Join(name, origin, tuple(map(self._value, parts)))
            case Accept(draft, target, offset, branches):
                table = most = None
                if branches:
                    table = self.module.tables.of(f"{node.name}_branches", branches)
                else:
                    most = self.counts.most(name, node.op)
                return p.Accept(
                    name, origin, self._tokens(draft), self._value(target), offset, most, table
                )
            case Leading(scores, at_least, at_most, low):
                bounds = self._bound(at_least), self._bound(at_most)
                return p.Leading(name, origin, self._value(scores), *bounds, low)
            case Reckon():
                return self.counts.reckon(name, origin, node.op)
            case Candidates(logits, count):
                return p.Candidates(name, origin, self._logits(logits), count)
            case Recall(pool, entry, after, count):
                looked = self._tokens(after)
                return p.Recall(name, origin, self._tokens(pool), entry, looked, count)
            case Repeat():
                return self._loop(name, origin, node.op, inside)
            case _:
                raise untold(node.op, "codegen/lower_method.py")

    def _lay_rows(self, name: str, origin: p.Origin, op: LayRows) -> p.LayRows:
        layout = op.layout
        parts: list[p.Use | int | tuple[int, ...]] = []
        for segment, part in zip(layout.segments, op.parts, strict=True):
            sizes = tuple(size.fixed for size in segment.sizes)
            if part is not None:
                parts.append(self._value(part))
            else:
                parts.append(sizes[0] if len(set(sizes)) == 1 else sizes)
        by_segment = layout.by_segment and layout.groups > 1
        return p.LayRows(name, origin, tuple(parts), layout.groups, by_segment)

    def _forward(self, name: str, node: Node, op: Forward, inside: _Round | None) -> p.Forward:
        rows, layout = self.module.rows[node.name], self.module.layouts[node.name]
        hold = inside is not None and inside.hold
        held: str | None = None
        if rows.dynamic and (hold or not rows.in_file_order):
            held = self.held[node.name] = self.scope.allot(f"{name}_rows")
        ordered: p.Ordering = "as it is"
        if not rows.in_file_order and rows.dynamic:
            ordered = "by its layout"
        elif not rows.in_file_order:
            order = tuple(row.row for row in rows.order())
            ordered = p.Numbers(self.module.tables.of(f"{node.name}_order", order))
        return p.Forward(
            name=name,
            origin=p.Origin.of(node),
            tokens=self._tokens(op.rows),
            layout=layout.name,
            pattern=self.module.patterns[node.name].name,
            size=rows.size,
            held=held,
            ordered=ordered,
            adapter=op.adapter,
            adapted=None if op.adapter is None else self._adapted(node, rows, held),
            counted=op.counted,
            active=None if inside is None else inside.active,
            hold=hold,
        )

    def _adapted(
        self, node: Node, rows: Ordered, held: str | None
    ) -> p.AdaptedTable | p.AdaptedColumn | None:
        if rows.adapts_all():
            return None
        if rows.dynamic:
            column = rows.column(rows.forward.adapter_rows)
            return p.AdaptedColumn(column, None if rows.in_file_order else held)
        places = tuple(place for place, flag in enumerate(rows.facts()["adapted"]) if flag)
        return p.AdaptedTable(self.module.tables.of(f"{node.name}_adapted", places))

    def _bound(self, expr: Expr | None) -> Expr | None:
        return None if expr is None else self.asking.rule(expr, "score")

    def _select(self, name: str, origin: p.Origin, op: Select, inside: _Round | None) -> p.Select:
        def known(expr: Expr) -> Expr:
            return fold(expr, {"iteration": 0}) if inside is None else expr

        given = [(rule, getattr(op, rule)) for rule in RULES]
        rules = tuple(
            p.Rule(rule, self.asking.rule(known(limit), COUNTING.get(rule, "score")))
            for rule, limit in given
            if limit is not None
        )
        where: p.Condition | None = None
        if op.where is not None:
            row, rank, score = self.scope.inside().allot_all(("row", "rank", "score"))
            where = p.Condition(self.asking.condition(known(op.where)), (row, rank, score))
        return p.Select(
            name=name,
            origin=origin,
            among=self._value(op.among),
            score=self._value(op.score),
            less_is_surer=op.less_is_surer,
            rules=rules,
            where=where,
            iteration=inside.iteration if inside is not None and _asks_round(op) else None,
        )

    def _loop(self, name: str, origin: p.Origin, op: Repeat, inside: _Round | None) -> p.Loop:
        active, iteration = "active", "iteration"
        if inside is not None:
            active = self.scope.allot(f"{name}_active")
            iteration = self.scope.allot(f"{name}_iteration")
        initial = self._value(op.initial)
        body = self._body(op.body.nodes, _Round(active, iteration, leaves_rows(op)))
        append: str | None = None
        if leaves_rows(op):
            forward, _ = forward_of(op)
            append = self.held.get(forward.name, self.module.layouts[forward.name].name)
        fill = last_fill(op) if op.exhausted == "fill" else None
        asked = any(_asks_round(node.op) for node in op.body.nodes)
        return p.Loop(
            name=name,
            origin=origin,
            initial=initial,
            body=body,
            result=self._value(op.result),
            at_most=op.at_most,
            at_least=op.at_least,
            active=active,
            within=None if inside is None else inside.active,
            iteration=iteration if asked else None,
            eos=op.eos,
            eos_ids=op.eos_ids,
            changed=self.scope.allot(f"{name}_changed") if op.until == "unchanged" else None,
            left=None if fill is None else self._value(fill.tokens),
            kept=self.scope.allot(f"{name}_left") if fill and not op.at_least else None,
            append=append,
        )

    # Values

    def _value(self, value: Value) -> p.Use:
        """Return a use of a value; logits are lowered by `_logits`."""
        register = "prompt" if value.node == PROMPT else self.names[value.node]
        if not value.picks:
            return p.Use(register, value.field)
        is_rows = isinstance(type_of(self.graph, value), Rows)
        return p.Use(register, "tokens" if is_rows else value.field, self._rows(value))

    def _tokens(self, value: Value) -> p.Use:
        """Return the token ids of a use of tokens or rows."""
        is_rows = isinstance(type_of(self.graph, value), Rows) and not value.picks
        return p.Use(self.names[value.node], "tokens") if is_rows else self._value(value)

    def _logits(self, value: Value) -> p.Use:
        """Return logits: those of a head, or of some rows of a mix."""
        if value in self.heads:
            return p.Use(self.heads[value])
        rows = self._rows(value) if value.picks else None
        return p.Use(self.names[value.node], rows=rows)

    def _predicting(self, value: Value) -> p.States | p.Use:
        """Return what has the positions that rows predict: states where there are some."""
        if isinstance(self.graph.node(value.node).op, Forward):
            return self._states(value)
        return self._logits(value)

    def _states(self, value: Value) -> p.States:
        """Return the states of some rows of a forward."""
        rows, name = self.module.rows[value.node], self.names[value.node]
        size = size_of(self.graph, value)
        if rows.in_file_order and not value.picks:
            return p.States(p.Use(name), size)
        taken = self._rows(value, rows.places if not rows.dynamic else None)
        if isinstance(taken, p.Run) and rows.dynamic and not rows.in_file_order:
            taken = p.Listed((taken,))
        if isinstance(taken, p.Listed) and not rows.in_file_order:
            taken = p.Listed(taken.runs, self.held[value.node])
        if taken == p.Run(Size(0), rows.size):
            return p.States(p.Use(name), size)
        return p.States(p.Use(name, rows=taken), size)

    def _rows(
        self, value: Value, places: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None
    ) -> p.Chosen:
        """Return the rows that picks choose, by the places that their numbers stand for."""
        layout = layout_of(self.graph, value)
        if layout.dynamic:
            found = prompt_runs(layout, value.picks, self.graph.kinds)
            runs = tuple(p.Run(start, start + count) for start, count in found)
            if not runs:
                return p.Run(Size(0), Size(0))
            return runs[0] if len(runs) == 1 else p.Listed(runs)
        table = chosen(self.graph, value)
        if places is not None:
            table = {count: places(rows) for count, rows in table.items()}
        if value.count is None:
            return self.module.tables.rows(f"{value.node}_taken", table[0])
        longest = max(table.values(), key=len)
        is_part = len(min(table.values(), key=len)) < len(longest)
        if is_part and all(rows == longest[: len(rows)] for rows in table.values()):
            return self.module.tables.rows(f"{value.node}_taken", longest)
        # What lies behind a part of fewer rows is no part of it: any row will do.
        table = {n: (*rows, *longest[len(rows) :]) for n, rows in table.items()}
        lines = tuple(table[count] for count in sorted(table))
        name = self.module.tables.of(f"{value.node}_by_count", lines)
        return p.ByCount(name, self._value(value.count), min(table))


def _logits_of(node: Node) -> tuple[Value, ...]:
    match node.op:
        case Sample(logits) | Score(logits, _, _) | Safety(logits, _, _) | Candidates(logits):
            return (logits,)
        case Mix():
            return tuple(part for part, _ in node.op.weighed)
        case _:
            return ()


def _asks_round(op: Op) -> bool:
    """Whether an op of a loop's body asks how often the loop has run."""
    if isinstance(op, Noise):
        return op.iteration is None
    if not isinstance(op, Select):
        return False
    rules = (getattr(op, item.name) for item in fields(op))
    named = (references(rule) for rule in rules if isinstance(rule, Expr))
    return any(ref.root == "iteration" for refs in named for ref in refs)
