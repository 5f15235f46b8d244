"""Print the methods of a strategy: one straight run of calls to the runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, field, fields

from nldc.codegen.compact import show_list, show_prompt_list
from nldc.codegen.names import python_names
from nldc.codegen.plan import LayoutPlan
from nldc.codegen.spelling import Spelling, flags, in_length, place_of
from nldc.codegen.writer import Writer, quoted
from nldc.diagnostics import InternalError
from nldc.expr import Expr, Ref, references, to_python
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


@dataclass
class LoopPrinter:
    """Prints the methods of one strategy; `spell` knows how its values are written."""

    spell: Spelling
    out: Writer = field(default_factory=Writer)

    def methods(self) -> None:
        """Print `prefill`, `step`, and with several steps the one that chooses among them."""
        graph = self.spell.plan.graph
        self._method(
            "def prefill(self, batch: Batch, prompt: Tensor) -> Emit:", graph.prefill.nodes
        )
        carried = [f"{quoted(c.name)}: {self.spell.value(c.initial)}" for c in graph.carry]
        with self.out.indent():
            self._emit(graph.prefill_tokens, None, carried)
        for variant, name in self._variants():
            self.out.line()
            self._step(variant, name)
        if graph.alternatives:
            self.out.line()
            self._dispatch()

    def _variants(self) -> Iterator[tuple[Graph, str]]:
        graph = self.spell.plan.graph
        for alternative in graph.alternatives:
            yield alternative.graph, f"step_{alternative.name}"
        if not graph.alternatives:
            yield graph, "step"
            return
        prefix = graph.step.nodes[0].name.split(".", 1)[0]
        yield graph, f"step_{prefix}"

    def _step(self, graph: Graph, name: str) -> None:
        self.spell.graph = graph
        self.spell.names = _carry_names(graph.carry)
        self._method(
            f"def {name}(self, batch: Batch, carry: dict[str, Tensor]) -> Emit:",
            graph.step.nodes,
            unpack=True,
        )
        with self.out.indent():
            carried = [f"{quoted(c.name)}: {self.spell.value(c.next)}" for c in graph.carry]
            self._emit(graph.emit.tokens, graph.emit.keep, carried)

    def _dispatch(self) -> None:
        out = self.out
        out.line("def step(self, batch: Batch, carry: dict[str, Tensor]) -> Emit:")
        with out.indent():
            out.docstring("Take the first step whose condition holds, else the last.")
            for alternative, (_, name) in zip(
                self.spell.plan.graph.alternatives, self._variants(), strict=False
            ):
                condition = to_python(alternative.condition, lambda _: "batch.size")
                out.line(f"if {condition}:")
                with out.indent():
                    out.line(f"return self.{name}(batch, carry)")
            *_, (_, last) = self._variants()
            out.line(f"return self.{last}(batch, carry)")

    def _method(self, signature: str, nodes: Iterable[Node], unpack: bool = False) -> None:
        nodes = tuple(nodes)
        self.spell.names.update(python_names(node.name for node in walk(nodes)))
        for node in walk(nodes):
            if isinstance(node.op, Repeat):
                self.spell.names[f"{node.name}:{node.op.variable}"] = self.spell.names[node.name]
        self.spell.heads = {}
        self.out.line(signature)
        with self.out.indent():
            regions = dict.fromkeys(node.name.split(".", 1)[0] for node in nodes)
            names = " and ".join(f"`{region}`" for region in regions)
            what = "Run one step" if unpack else "Fill the cache from a prompt"
            self.out.docstring(f"{what}: the nodes of {names}.")
            if unpack:
                for carried in self.spell.graph.carry:
                    name = self.spell.names[f"carry.{carried.name}"]
                    self.out.line(f"{name} = carry[{quoted(carried.name)}]")
            else:
                self.out.line("length = prompt.shape[1]")
            self._nodes(nodes)

    def _nodes(
        self, nodes: tuple[Node, ...], active: str | None = None, *, hold: bool = False
    ) -> None:
        uses = Counter(value for node in nodes for value in _logits_of(node))
        for node in nodes:
            if isinstance(node.op, (LayRows, Forward, Accept, Repeat)):
                self.out.line(f"# {node.name}, {place_of(node)}")
            for value in _logits_of(node):
                is_forward = isinstance(self.spell.graph.node(value.node).op, Forward)
                if uses[value] > 1 and is_forward and value not in self.spell.heads:
                    name = f"{self.spell.names[value.node]}_logits"
                    self.out.line(f"{name} = batch.head({self.spell.hidden(value)})")
                    self.spell.heads[value] = name
            self._node(node, active, hold)

    def _node(self, node: Node, active: str | None, hold: bool) -> None:
        name = self.spell.names[node.name]
        match node.op:
            case LayRows():
                self._lay_rows(name, node.op)
            case Forward():
                self._forward(name, node, node.op, active, hold)
            case Sample(logits):
                arguments = [self.spell.logits(logits), *_attributes(node.op)]
                self.out.assign(name, "batch.sample", arguments)
            case Score(logits, tokens, by):
                arguments = [self.spell.logits(logits)]
                if tokens is not None:
                    arguments.append(self.spell.value(tokens))
                self.out.assign(name, f"batch.{by}", [*arguments, *_attributes(node.op)])
            case Select():
                self._select(name, node.op)
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
                self._repeat(name, node.op)

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

    def _forward(self, name: str, node: Node, op: Forward, active: str | None, hold: bool) -> None:
        layout = self.spell.plan.layouts[node.name]
        tokens = self.spell.tokens(op.rows)
        rows = layout.name
        if layout.dynamic:
            rows = f"{layout.name.lower()}(length)"
            if not layout.in_file_order(5):
                raise InternalError("rows before the prompt that are not appended")
        elif not layout.in_file_order():
            tokens = f"{tokens}[:, {layout.name}.row]"
        arguments = [tokens, rows, self.spell.plan.patterns[node.name].name]
        if op.adapter is not None:
            arguments.append(f"adapter={quoted(op.adapter)}")
            if not layout.adapts_all():
                arguments.append(f"adapter_rows={self._adapted(layout)}")
        if not op.counted:
            arguments.append("counted=False")
        if active is not None:
            arguments.append(f"active={active}")
        if hold:
            arguments.append("hold=True")
        self.out.assign(name, "batch.forward", arguments)

    def _adapted(self, layout: LayoutPlan) -> str:
        if layout.dynamic:
            text = show_prompt_list(lambda prompt: layout.facts(prompt)["adapted"])
            return in_length(flags(text))
        table = f"{layout.name}_ADAPTED"
        self.spell.tables.append((table, flags(show_list(layout.facts()["adapted"]))))
        return table

    def _select(self, name: str, op: Select) -> None:
        among = self.spell.value(op.among)
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
                arguments.append(f"{key}={self._rule(expr, among)}")
        if op.where is not None:
            text = to_python(op.where, lambda ref: self._row_fact(ref, among))
            arguments.append(f"where=lambda row, rank, score: {text}")
        self.out.assign(name, "ops.select", arguments)

    def _row_fact(self, ref: Ref, among: str) -> str:
        if ref.root in ("row", "rank", "score", "iteration"):
            return ref.root
        return f"ops.left({among})"

    def _rule(self, expr: Expr, among: str) -> str:
        def rename(ref: Ref) -> str:
            return "iteration" if ref.root == "iteration" else f"ops.left({among})"

        return to_python(expr, rename)

    def _repeat(self, name: str, op: Repeat) -> None:
        self.out.line(f"{name} = {self.spell.value(op.initial)}")
        ends = ", eos=batch.eos[:1]" if op.eos_ids == "first" else ""
        unfinished = f"ops.unfinished(batch, {name}{ends})"
        if op.eos == "ignored":
            unfinished = f"ops.has_masks({name})"
        self.out.line(f"active = {'batch.everyone()' if op.at_least else unfinished}")
        counter = "iteration" if _counts(op) else "_"
        self.out.line(f"for {counter} in range({op.at_most}):")
        with self.out.indent():
            if not op.at_least:
                self.out.line("if not active.any():")
                with self.out.indent():
                    self.out.line("break")
            self._nodes(op.body.nodes, active="active", hold=op.keys == "kept")
            after = self.spell.value(op.result)
            if op.eos == "fills":
                after = f"ops.fill_after_eos(batch, {after}{ends})"
            self.out.assign(name, "ops.advance", ["active", name, after])
            self.out.line(f"active = active & {unfinished}")
            if op.at_least:
                self.out.line("if not active.any():")
                with self.out.indent():
                    self.out.line("break")
        if op.exhausted == "fill":
            self.out.line("else:")
            with self.out.indent():
                tokens = self.spell.value(_last_fill(op).tokens)
                self.out.line(f"{name} = ops.fill_left(active, {name}, {tokens})")
        if op.keys == "kept":
            forward = next(n for n in op.body.nodes if isinstance(n.op, Forward))
            self.out.line(f"batch.append({self.spell.plan.layouts[forward.name].name}.size)")

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

    def _place(self, node: Node) -> str:
        return f"line {node.span.start_line}"


def _carry_names(carry: Iterable[Carried]) -> dict[str, str]:
    return python_names(f"carry.{carried.name}" for carried in carry)


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
