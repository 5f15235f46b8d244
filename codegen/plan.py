"""What code generation decides before it prints: row order, layouts, patterns, scratch room.

Rows that stay in the cache are computed first, whatever the file's order, so that keeping them is
a change of length and no copy. Everything here is plain data; the emitters only print it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from nldc.codegen.columns import Piece, at_most, column, leading
from nldc.codegen.names import Scope, module_scope
from nldc.codegen.room import Room, Written, room_of
from nldc.expr import Boolean, Expr, Ref, evaluate, show
from nldc.ir.facts import NO_KIND, facts_of, prefix_facts, row_lookup
from nldc.ir.graph import Graph, walk
from nldc.ir.layout import Row
from nldc.ir.ops import Forward, Node
from nldc.ir.ranges import Range, UndecidedError, evaluate_range
from nldc.ir.size import Size


@dataclass(frozen=True)
class LayoutPlan:
    """The rows of one forward, in the order in which they are computed.

    `name` is the module's constant that holds them, or its function of the prompt's length.
    """

    name: str
    node: Node
    forward: Forward
    kinds: tuple[str, ...]

    @property
    def dynamic(self) -> bool:
        """Whether the rows depend on the prompt's length."""
        return self.forward.layout.dynamic

    @property
    def size(self) -> Size:
        """The number of rows."""
        return self.forward.layout.size

    def order(self, prompt_length: int = 0) -> tuple[Row, ...]:
        """List the rows, those that are appended first."""
        rows = self.forward.layout.rows(prompt_length)
        return tuple(sorted(rows, key=lambda row: not self._holds(self.forward.append, row)))

    @property
    def kept_in_place(self) -> Size | None:
        """Return how many rows of a prompt stay if those are the first, each in its place."""
        taken = leading(self.column(self.forward.append))
        if taken is None or taken == Size(0):
            return taken
        first, *_ = self.column(self.forward.position)
        reaches = first.stop.prompts >= taken.prompts and first.stop.fixed >= taken.fixed
        return taken if first.expr == Ref("row") and reaches else None

    @property
    def in_file_order(self) -> bool:
        """Whether the rows are computed in the order in which the file lists them."""
        if self.dynamic:
            return leading(self.column(self.forward.append)) is not None
        return all(row.row == place for place, row in enumerate(self.order()))

    def places(self, rows: tuple[int, ...]) -> tuple[int, ...]:
        """Return where rows, numbered as in the file, stand in the order of computation."""
        place = {row.row: place for place, row in enumerate(self.order())}
        return tuple(place[row] for row in rows)

    def facts(self, prompt_length: int = 0) -> Mapping[str, list[int]]:
        """Return each fact of every row; `predicts_next` and `adapted` as 0 or 1."""
        order = self.order(prompt_length)
        return {
            "kind": [NO_KIND if r.kind is None else self.kinds.index(r.kind) for r in order],
            "group": [r.group for r in order],
            "index": [r.index for r in order],
            "row": [r.row for r in order],
            "offset": [self._number(self.forward.position, r) for r in order],
            "predicts_next": [int(self._holds(self.forward.predicts_next, r)) for r in order],
            "adapted": [int(self._holds(self.forward.adapter_rows, r)) for r in order],
        }

    def column(self, expr: Expr) -> tuple[Piece, ...]:
        """Return an expression over rows that depend on the prompt, in the file's order."""
        return column(self.forward.layout, self.kinds, expr)

    def appended(self) -> Size:
        """Return how many rows stay in the cache: for some prompts fewer, but never more."""
        if self.dynamic:
            return at_most(self.column(self.forward.append))
        return Size(sum(self._holds(self.forward.append, r) for r in self.forward.layout.rows()))

    def adapts_all(self) -> bool:
        """Whether the adapter, if there is one, applies to every row."""
        return self.forward.adapter_rows == Boolean(True)

    def _holds(self, predicate: Expr, row: Row) -> bool:
        return bool(evaluate(predicate, row_lookup(facts_of(row, self.kinds), self.kinds, {})))

    def _number(self, expr: Expr, row: Row) -> int:
        return int(evaluate(expr, row_lookup(facts_of(row, self.kinds), self.kinds, {})))


@dataclass(frozen=True)
class PatternPlan:
    """An attention predicate with a name, and whether every row sees the whole prefix.

    `function` names the predicate's functions, in torch and in Triton, and `loader` what imports
    the latter.
    """

    name: str
    function: str
    loader: str
    predicate: Expr
    kinds: tuple[str, ...]
    sees_prefix: bool
    origin: Node


@dataclass(frozen=True)
class Plan:
    """A graph with the decisions that printing it needs.

    `kinds` are the names of the labels' constants, `room` the rows that its cache needs; `scope`
    allots the names of the module that are not decided here.
    """

    graph: Graph
    layouts: Mapping[str, LayoutPlan]
    patterns: Mapping[str, PatternPlan]
    kinds: Mapping[str, str]
    room: Room
    scope: Scope


def make_plan(graph: Graph) -> Plan:
    """Decide row order, layouts, patterns, names and room for every forward of the graph."""
    layouts: dict[str, LayoutPlan] = {}
    patterns: dict[str, PatternPlan] = {}
    taken: dict[tuple[str, bool], PatternPlan] = {}
    scope = module_scope()
    for node, forward in forwards(graph):
        name = node.name.replace(".", "_").upper()
        wanted = f"{name}_ROWS".lower() if forward.layout.dynamic else f"{name}_ROWS"
        layout = LayoutPlan(scope.allot(wanted), node, forward, graph.kinds)
        layouts[node.name] = layout
        predicate = forward.attention.predicate
        sees = _sees_prefix(predicate, layout)
        key = (show(predicate), sees)
        if key not in taken:
            label = forward.attention.name
            chosen = scope.allot(label.upper() if label else name.removeprefix("STEP_"))
            function, loader = scope.allot_all(
                (f"{chosen.lower()}_sees", f"{chosen.lower()}_kernel")
            )
            taken[key] = PatternPlan(chosen, function, loader, predicate, graph.kinds, sees, node)
        patterns[node.name] = taken[key]
    kinds = {kind: scope.allot(kind.upper()) for kind in graph.kinds}
    written = {name: Written(plan.size, plan.appended()) for name, plan in layouts.items()}
    return Plan(graph, layouts, patterns, kinds, room_of(graph, written), scope)


def forwards(graph: Graph) -> Iterator[tuple[Node, Forward]]:
    """Yield the forwards of the graph in the order in which they run."""
    steps = [node for variant in graph.variants for node in variant.step.nodes]
    for node in walk((*graph.prefill.nodes, *steps)):
        if isinstance(node.op, Forward):
            yield node, node.op


def _sees_prefix(predicate: Expr, layout: LayoutPlan) -> bool:
    """Whether every row sees every cached row, however many those are, for every prompt."""
    anything = {"position": Range(-(2**30), -1)}
    key = {**{n: Range.exactly(int(v)) for n, v in prefix_facts().items()}, **anything}
    # A prompt in which no segment is empty: each has a row to ask for.
    sizes = [size for segment in layout.forward.layout.segments for size in segment.sizes]
    shown = max(1, *(1 - size.fixed for size in sizes if size.prompts), 1)
    rows = zip(layout.order(shown), layout.facts(shown)["offset"], strict=True)
    for row, offset in rows:
        facts = facts_of(row, layout.kinds, offset)
        query = {name: Range.exactly(int(value)) for name, value in facts.items()}
        if layout.dynamic:
            # A longer prompt has more rows of each kind, further on.
            query |= dict.fromkeys(("row", "index", "position"), Range(0, 2**30))
        try:
            found = evaluate_range(predicate, _pair_ranges(query, key, layout.kinds))
        except UndecidedError:
            return False
        if not found.low:
            return False
    return True


def _pair_ranges(
    query: Mapping[str, Range], key: Mapping[str, Range], kinds: tuple[str, ...]
) -> Callable[[Ref], Range | None]:
    def lookup(ref: Ref) -> Range | None:
        match ref.parts:
            case ("q", fact):
                return query.get(fact)
            case ("k", fact):
                return key.get(fact)
            case (label,) if label in kinds:
                return Range.exactly(kinds.index(label))
        return None

    return lookup
