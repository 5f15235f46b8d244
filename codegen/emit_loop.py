"""Print the methods of a strategy: one straight run of calls to the runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields

from nldc.codegen.columns import show_column
from nldc.codegen.compact import show_list
from nldc.codegen.names import PREFILL, STEP, Scope, class_scope, node_names
from nldc.codegen.plan import LayoutPlan
from nldc.codegen.spelling import Spelling, place_of
from nldc.codegen.writer import Writer, quoted
from nldc.diagnostics import InternalError
from nldc.expr import Expr, references, to_python
from nldc.ir.graph import Carried, Graph, walk
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


@dataclass(frozen=True)
class Round:
    """The names that a loop's body sees of it: who is still active, and how often it has run."""

    active: str
    iteration: str


@dataclass
class LoopPrinter:
    """Prints the methods of one strategy; `spell` knows how its values are written."""

    spell: Spelling
    out: Writer = field(default_factory=Writer)
    scope: Scope = field(default_factory=Scope)

    def methods(self) -> None:
        """Print `prefill`, `step`, and with several steps the one that chooses among them."""
        graph = self.spell.plan.graph
        self._method(
            "def prefill(self, batch: Batch, prompt: Tensor) -> Emit:", graph.prefill.nodes
        )
        carried = [f"{quoted(c.name)}: {self.spell.value(c.initial)}" for c in graph.carry]
        with self.out.indent():
            self._emit(graph.prefill_tokens, None, carried)
        variants = self._variants()
        for variant, name in variants:
            self.out.line()
            self._step(variant, name)
        if graph.alternatives:
            self.out.line()
            self._dispatch([name for _, name in variants])

    def _variants(self) -> list[tuple[Graph, str]]:
        """Return every step with the name of its method, in the order in which they are tried."""
        graph = self.spell.plan.graph
        if not graph.alternatives:
            return [(graph, "step")]
        scope = class_scope()
        last = graph.step.nodes[0].name.split(".", 1)[0]
        steps = [*((other.graph, other.name) for other in graph.alternatives), (graph, last)]
        return [(variant, scope.allot(f"step_{name}")) for variant, name in steps]

    def _step(self, graph: Graph, name: str) -> None:
        self.spell.graph = graph
        self._method(
            f"def {name}(self, batch: Batch, carry: dict[str, Tensor]) -> Emit:",
            graph.step.nodes,
            graph.carry,
        )
        with self.out.indent():
            carried = [f"{quoted(c.name)}: {self.spell.value(c.next)}" for c in graph.carry]
            self._emit(graph.emit.tokens, graph.emit.keep, carried)

    def _dispatch(self, names: Sequence[str]) -> None:
        out = self.out
        out.line("def step(self, batch: Batch, carry: dict[str, Tensor]) -> Emit:")
        with out.indent():
            out.docstring("Take the first step whose condition holds, else the last.")
            for alternative, name in zip(self.spell.plan.graph.alternatives, names, strict=False):
                condition = to_python(alternative.condition, lambda _: "batch.size")
                out.line(f"if {condition}:")
                with out.indent():
                    out.line(f"return self.{name}(batch, carry)")
            out.line(f"return self.{names[-1]}(batch, carry)")

    def _method(
        self, signature: str, nodes: Sequence[Node], carry: Sequence[Carried] | None = None
    ) -> None:
        """Print a method but for what it returns; with `carry` it is a step."""
        is_step = carry is not None
        self.scope = self.spell.plan.scope.inside(STEP if is_step else PREFILL)
        carried = [f"carry.{each.name}" for each in carry or ()]
        names = node_names((*carried, *(node.name for node in walk(nodes))), self.scope)
        for node in walk(nodes):
            if isinstance(node.op, Repeat):
                names[f"{node.name}:{node.op.variable}"] = names[node.name]
        self.spell.names, self.spell.heads, self.spell.rows = names, {}, {}
        self.out.line(signature)
        with self.out.indent():
            regions = dict.fromkeys(node.name.split(".", 1)[0] for node in nodes)
            of = " and ".join(f"`{region}`" for region in regions)
            what = "Run one step" if is_step else "Fill the cache from a prompt"
            self.out.docstring(f"{what}: the nodes of {of}.")
            for each in carry or ():
                self.out.line(f"{names[f'carry.{each.name}']} = carry[{quoted(each.name)}]")
            if not is_step:
                self.out.line("length = prompt.shape[1]")
            self._nodes(nodes)

    def _nodes(
        self, nodes: Sequence[Node], inside: Round | None = None, *, hold: bool = False
    ) -> None:
        uses = Counter(value for node in nodes for value in _logits_of(node))
        outer = dict(self.spell.heads)
        for node in nodes:
            if isinstance(node.op, (LayRows, Forward, Accept, Repeat)):
                self.out.line(f"# {node.name}, {place_of(node)}")
            for value in _logits_of(node):
                is_forward = isinstance(self.spell.graph.node(value.node).op, Forward)
                if uses[value] > 1 and is_forward and value not in self.spell.heads:
                    name = self.scope.allot(f"{self.spell.names[value.node]}_logits")
                    self.out.line(f"{name} = batch.head({self.spell.hidden(value)})")
                    self.spell.heads[value] = name
            self._node(node, inside, hold)
        # A loop's body may not run: what it computed is not there behind it.
        self.spell.heads = outer

    def _node(self, node: Node, inside: Round | None, hold: bool) -> None:
        name = self.spell.names[node.name]
        match node.op:
            case LayRows():
                self._lay_rows(name, node.op)
            case Forward():
                self._forward(name, node, node.op, inside, hold)
            case Sample(logits):
                arguments = [self.spell.logits(logits), *_attributes(node.op)]
                self.out.assign(name, "batch.sample", arguments)
            case Score(logits, tokens, by):
                arguments = [self.spell.logits(logits)]
                if tokens is not None:
                    arguments.append(self.spell.value(tokens))
                self.out.assign(name, f"batch.{by}", [*arguments, *_attributes(node.op)])
            case Select():
                self._select(name, node.op, inside)
            case Fill(rows, where, tokens):
                arguments = [self.spell.value(v) for v in (rows, where, tokens)]
                self.out.assign(name, "ops.fill", arguments)
            case Mix():
                parts = [self.spell.logits(part) for part, _ in node.op.weighed]
                values = f"({', '.join(parts)}{',' * (len(parts) == 1)})"
                weights = tuple(weight for _, weight in node.op.weighed)
                self.out.assign(name, "ops.mix", [values, repr(weights)])
            case Lookup(length, ngram):
                arguments = ["batch", f"length={length}", f"ngram={ngram}"]
                self.out.assign(name, "ops.lookup", arguments)
            case Join(parts):
                self.out.assign(name, "ops.join", [self.spell.value(part) for part in parts])
            case Accept(draft, target, offset):
                arguments = [self.spell.tokens(draft), self.spell.value(target), f"offset={offset}"]
                self.out.assign(name, "ops.accept_longest_prefix", arguments)
            case Repeat():
                self._repeat(name, node.op, inside)

    def _lay_rows(self, name: str, op: LayRows) -> None:
        layout = op.layout
        arguments: list[str] = []
        for segment, part in zip(layout.segments, op.parts, strict=True):
            if part is not None:
                arguments.append(self.spell.value(part))
            elif len(set(segment.sizes)) == 1:
                arguments.append(str(segment.sizes[0].fixed))
            else:
                arguments.append(f"({', '.join(str(s.fixed) for s in segment.sizes)})")
        if layout.by_segment and layout.groups > 1:
            arguments.append("by_segment=True")
        if layout.groups > 1:
            self.out.assign(name, "ops.grouped_rows", ["batch", str(layout.groups), *arguments])
        else:
            self.out.assign(name, "ops.rows", ["batch", *arguments])

    def _forward(
        self, name: str, node: Node, op: Forward, inside: Round | None, hold: bool
    ) -> None:
        layout = self.spell.plan.layouts[node.name]
        tokens = self.spell.tokens(op.rows)
        rows = f"{layout.name}(length)" if layout.dynamic else layout.name
        if layout.dynamic and (hold or not layout.in_file_order):
            held = self.scope.allot(f"{name}_rows")
            self.out.line(f"{held} = {rows}")
            rows = self.spell.rows[node.name] = held
        if not layout.in_file_order:
            tokens = f"{tokens}[:, {rows}.row]"
        arguments = [tokens, rows, self.spell.plan.patterns[node.name].name]
        if op.adapter is not None:
            arguments.append(f"adapter={quoted(op.adapter)}")
            if not layout.adapts_all():
                arguments.append(f"adapter_rows={self._adapted(layout, rows)}")
        if not op.counted:
            arguments.append("counted=False")
        if inside is not None:
            arguments.append(f"active={inside.active}")
        if hold:
            arguments.append("hold=True")
        self.out.assign(name, "batch.forward", arguments)

    def _adapted(self, layout: LayoutPlan, rows: str) -> str:
        if layout.dynamic:
            text = show_column(layout.column(layout.forward.adapter_rows), "length")
            return text if layout.in_file_order else f"{rows}.in_order({text})"
        table = self.spell.plan.scope.allot(f"{layout.name}_ADAPTED")
        adapted = [place for place, flag in enumerate(layout.facts()["adapted"]) if flag]
        self.spell.tables.append((table, f"Table.of({show_list(adapted)})"))
        return table

    def _select(self, name: str, op: Select, inside: Round | None) -> None:
        among = self.spell.value(op.among)
        iteration = "0" if inside is None else inside.iteration
        known = {"left": f"ops.left({among})", "iteration": iteration}
        arguments = [among, self.spell.value(op.score)]
        if op.less_is_surer:
            arguments.append("less_is_surer=True")
        rules = {
            "at_least": op.at_least,
            "at_most": op.at_most,
            "best": op.best,
            "within": op.within,
            "always_best": op.always_best,
        }
        for key, expr in rules.items():
            if expr is not None:
                arguments.append(f"{key}={to_python(expr, known)}")
        if op.where is not None:
            row_facts = ("row", "rank", "score")
            bound = self.scope.inside().allot_all(row_facts)
            text = to_python(op.where, {**known, **dict(zip(row_facts, bound, strict=True))})
            arguments.append(f"where=lambda {', '.join(bound)}: {text}")
        self.out.assign(name, "ops.select", arguments)

    def _repeat(self, name: str, op: Repeat, inside: Round | None) -> None:
        own = Round("active", "iteration")
        if inside is not None:
            own = Round(self.scope.allot(f"{name}_active"), self.scope.allot(f"{name}_iteration"))
        self.out.line(f"{name} = {self.spell.value(op.initial)}")
        ends = ", first=True" if op.eos_ids == "first" else ""
        unfinished = f"ops.unfinished(batch, {name}{ends})"
        if op.eos == "ignored":
            unfinished = f"ops.has_masks({name})"
        begin = unfinished if inside is None else f"{inside.active} & {unfinished}"
        if op.at_least:
            begin = "batch.everyone()" if inside is None else inside.active
        self.out.line(f"{own.active} = {begin}")
        counter = own.iteration if _counts(op) else "_"
        self.out.line(f"for {counter} in range({op.at_most}):")
        with self.out.indent():
            if not op.at_least:
                self._leave(own)
            self._nodes(op.body.nodes, own, hold=op.keys == "kept")
            after = self.spell.value(op.result)
            if op.eos == "fills":
                after = f"ops.fill_after_eos(batch, {after}{ends})"
            self.out.assign(name, "ops.advance", [own.active, name, after])
            self.out.line(f"{own.active} = {own.active} & {unfinished}")
            if op.at_least:
                self._leave(own)
        if op.exhausted == "fill":
            self.out.line("else:")
            with self.out.indent():
                tokens = self.spell.value(_last_fill(op).tokens)
                self.out.line(f"{name} = ops.fill_left({own.active}, {name}, {tokens})")
        if op.keys == "kept":
            forward = next(n for n in op.body.nodes if isinstance(n.op, Forward))
            rows = self.spell.rows.get(forward.name, self.spell.plan.layouts[forward.name].name)
            self.out.line(f"batch.append({rows}.size)")

    def _leave(self, own: Round) -> None:
        self.out.line(f"if batch.done({own.active}):")
        with self.out.indent():
            self.out.line("break")

    def _emit(self, tokens: Value | None, keep: Value | None, carried: list[str]) -> None:
        arguments = ["tokens=ops.no_tokens(batch)"]
        if tokens is not None:
            arguments = [f"tokens={self.spell.value(tokens)}"]
            ragged = self.spell.ragged_count(tokens)
            if ragged is not None:
                arguments.append(f"count={ragged}")
        if keep is not None:
            arguments.append(f"keep={self.spell.value(keep)}")
        arguments.append(f"carry={{{', '.join(carried)}}}")
        self.out.assign("", "return Emit", arguments)


def _logits_of(node: Node) -> tuple[Value, ...]:
    match node.op:
        case Sample(logits) | Score(logits, _, _):
            return (logits,)
        case Mix():
            return tuple(part for part, _ in node.op.weighed)
        case _:
            return ()


def _attributes(op: Sample | Score) -> list[str]:
    """Print the attributes that are not the default."""
    given = [(item, getattr(op, item.name)) for item in fields(op) if item.default is not MISSING]
    return [f"{item.name}={quoted(value)}" for item, value in given if value != item.default]


def _last_fill(loop: Repeat) -> Fill:
    op = next(node.op for node in loop.body.nodes if node.name == loop.result.node)
    if not isinstance(op, Fill):
        raise InternalError("a loop that fills what is left does not end in a fill")
    return op


def _counts(loop: Repeat) -> bool:
    """Whether a rule in the loop's body asks how often it has run."""
    rules = (
        getattr(node.op, item.name)
        for node in loop.body.nodes
        if isinstance(node.op, Select)
        for item in fields(Select)
    )
    named = (references(rule) for rule in rules if isinstance(rule, Expr))
    return any(ref.root == "iteration" for refs in named for ref in refs)
