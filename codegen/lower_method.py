"""From the nodes of a prefill or of a step to the instructions of a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from nldc.codegen import program as p
from nldc.codegen.names import PREFILL, STEP, Scope, node_names
from nldc.codegen.ordered import Ordered
from nldc.codegen.tables import Tables
from nldc.codegen.values import chosen, layout_of, size_of, type_of
from nldc.diagnostics import InternalError, untold
from nldc.expr import Expr, fold, references
from nldc.ir.effects import forward_of, leaves_rows
from nldc.ir.graph import Graph, Step, walk
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
from nldc.ir.picks import prompt_runs
from nldc.ir.scope import PROMPT
from nldc.ir.size import Size
from nldc.ir.types import Rows

RULES = ("at_least", "at_most", "best", "within", "always_best")


@dataclass(frozen=True)
class Module:
    """What the methods of a program share: names, and for each forward its rows, layout, pattern;
    tables grow as methods are lowered.
    """

    scope: Scope
    rows: Mapping[str, Ordered]
    layouts: Mapping[str, p.Layout]
    patterns: Mapping[str, p.Pattern]
    tables: Tables


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
        self.heads: dict[Value, str] = {}
        self.held: dict[str, str] = {}

    def method(self, name: str) -> p.Method:
        """Return the method."""
        body = self._body(self.nodes, None)
        return p.Method(
            name=name,
            regions=tuple(dict.fromkeys(node.name.split(".", 1)[0] for node in self.nodes)),
            carried=tuple((each.name, self.names[f"carry.{each.name}"]) for each in self.carried),
            body=body,
            commit=self._commit(),
        )

    def _commit(self) -> p.Commit:
        tokens, keep = self.graph.prefill_tokens, None
        made = tuple((item.name, item.initial) for item in self.graph.carry)
        if self.step is not None:
            tokens, keep, made = self.step.emit.tokens, self.step.emit.keep, self.step.next
        return p.Commit(
            tokens=None if tokens is None else self._value(tokens),
            count=None if tokens is None else self._count(tokens),
            keep=None if keep is None else self._value(keep),
            carry=tuple((name, self._value(value)) for name, value in made),
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
                    body.append(p.Head(head, _origin(node), self._states(value)))
                    self.heads[value] = head
            body.append(self._node(node, inside))
        # A loop's body may not run: what it computed is not there behind it.
        self.heads = outer
        return tuple(body)

    def _node(self, node: Node, inside: _Round | None) -> p.Instruction:
        name, origin = self.names[node.name], _origin(node)
        match node.op:
            case LayRows():
                return self._lay_rows(name, origin, node.op)
            case Forward():
                return self._forward(name, node, node.op, inside)
            case Sample(logits, mask_token):
                return p.Choose(name, origin, self._logits(logits), mask_token)
            case Score(logits, tokens, by, of, mask_token):
                given = None if tokens is None else self._value(tokens)
                return p.Score(name, origin, by, self._logits(logits), given, of, mask_token)
            case Select():
                return self._select(name, origin, node.op, inside)
            case Fill(rows, where, tokens):
                return p.Fill(name, origin, *(self._value(v) for v in (rows, where, tokens)))
            case Mix():
                parts, weights = zip(*node.op.weighed, strict=True)
                return p.Mix(name, origin, tuple(map(self._logits, parts)), tuple(weights))
            case Lookup(length, ngram):
                return p.Lookup(name, origin, length, ngram)
            case Join(parts):
                return p.Join(name, origin, tuple(map(self._value, parts)))
            case Accept(draft, target, offset):
                return p.Accept(name, origin, self._tokens(draft), self._value(target), offset)
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
            origin=_origin(node),
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

    def _select(self, name: str, origin: p.Origin, op: Select, inside: _Round | None) -> p.Select:
        def known(expr: Expr) -> Expr:
            return fold(expr, {"iteration": 0}) if inside is None else expr

        given = [(rule, getattr(op, rule)) for rule in RULES]
        rules = tuple(p.Rule(rule, known(limit)) for rule, limit in given if limit is not None)
        where: p.Condition | None = None
        if op.where is not None:
            row, rank, score = self.scope.inside().allot_all(("row", "rank", "score"))
            where = p.Condition(known(op.where), (row, rank, score))
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
        fills = op.exhausted == "fill"
        asked = any(isinstance(n.op, Select) and _asks_round(n.op) for n in op.body.nodes)
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
            left=self._value(_last_fill(op).tokens) if fills else None,
            kept=self.scope.allot(f"{name}_left") if fills and not op.at_least else None,
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
        lines = tuple(table[count] for count in sorted(table))
        name = self.module.tables.of(f"{value.node}_by_count", lines)
        return p.ByCount(name, self._value(value.count), min(table))

    def _count(self, value: Value) -> p.Use | None:
        """Return how many of the tokens count in each sequence, or None if all do."""
        if value.field not in ("tokens", "drafted"):
            return None
        accept = self.graph.node(value.node).op if "." in value.node else None
        if not isinstance(accept, Accept):
            return None
        whole = value.field == "tokens" or accept.offset == 1
        return p.Use(self.names[value.node], "rows" if whole else "matches")


def _origin(node: Node) -> p.Origin:
    return p.Origin(node.name, node.span.start_line)


def _logits_of(node: Node) -> tuple[Value, ...]:
    match node.op:
        case Sample(logits) | Score(logits, _, _):
            return (logits,)
        case Mix():
            return tuple(part for part, _ in node.op.weighed)
        case _:
            return ()


def _asks_round(op: Select) -> bool:
    """Whether a rule asks how often the loop has run."""
    rules = (getattr(op, item.name) for item in fields(op))
    named = (references(rule) for rule in rules if isinstance(rule, Expr))
    return any(ref.root == "iteration" for refs in named for ref in refs)


def _last_fill(loop: Repeat) -> Fill:
    op = next(node.op for node in loop.body.nodes if node.name == loop.result.node)
    if not isinstance(op, Fill):
        raise InternalError("a loop that fills what is left does not end in a fill")
    return op
