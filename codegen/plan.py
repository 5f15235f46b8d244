"""What code generation decides before it prints: row order, layouts, patterns, scratch room.

Rows that stay in the cache are computed first, whatever the file's order, so that keeping them is
a change of length and no copy. Everything here is plain data; the emitters only print it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from nldc.expr import Boolean, Expr, Ref, evaluate, show
from nldc.ir.facts import NO_KIND, facts_of, prefix_facts, row_lookup
from nldc.ir.graph import Graph, walk
from nldc.ir.layout import Row
from nldc.ir.ops import Forward, Node, Repeat
from nldc.ir.ranges import Range, UndecidedError, evaluate_range
from nldc.ir.size import Size

FACTS = ("kind", "group", "index", "row", "offset")


@dataclass(frozen=True)
class LayoutPlan:
    """The rows of one forward, in the order in which they are computed."""

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

    def in_file_order(self, prompt_length: int = 0) -> bool:
        """Whether the rows are computed in the order in which the file lists them."""
        return all(row.row == place for place, row in enumerate(self.order(prompt_length)))

    def places(self, rows: tuple[int, ...], prompt_length: int = 0) -> tuple[int, ...]:
        """Return where rows, numbered as in the file, stand in the order of computation."""
        place = {row.row: place for place, row in enumerate(self.order(prompt_length))}
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

    def appended(self, prompt_length: int = 0) -> int:
        """Return how many rows stay in the cache."""
        return sum(
            self._holds(self.forward.append, r) for r in self.forward.layout.rows(prompt_length)
        )

    def adapts_all(self) -> bool:
        """Whether the adapter, if there is one, applies to every row."""
        return self.forward.adapter_rows == Boolean(True)

    def _holds(self, predicate: Expr, row: Row) -> bool:
        return bool(evaluate(predicate, row_lookup(facts_of(row, self.kinds), self.kinds, {})))

    def _number(self, expr: Expr, row: Row) -> int:
        return int(evaluate(expr, row_lookup(facts_of(row, self.kinds), self.kinds, {})))


@dataclass(frozen=True)
class PatternPlan:
    """An attention predicate with a name, and whether every row sees the whole prefix."""

    name: str
    predicate: Expr
    kinds: tuple[str, ...]
    sees_prefix: bool
    origin: Node

    @property
    def function(self) -> str:
        """The name of the predicate's functions, in torch and in Triton."""
        return f"{self.name.lower()}_sees"


@dataclass(frozen=True)
class Plan:
    """A graph with the decisions that printing it needs."""

    graph: Graph
    layouts: Mapping[str, LayoutPlan]
    patterns: Mapping[str, PatternPlan]
    scratch_rows: int


def make_plan(graph: Graph) -> Plan:
    """Decide row order, layouts, patterns and scratch room for every forward of the graph."""
    layouts: dict[str, LayoutPlan] = {}
    patterns: dict[str, PatternPlan] = {}
    taken: dict[tuple[str, bool], PatternPlan] = {}
    for node, forward in forwards(graph):
        name = node.name.replace(".", "_").upper()
        layout = LayoutPlan(f"{name}_ROWS", node, forward, graph.kinds)
        layouts[node.name] = layout
        predicate = forward.attention.predicate
        sees = _sees_prefix(predicate, layout)
        key = (show(predicate), sees)
        if key not in taken:
            label = forward.attention.name
            chosen = label.upper() if label else f"{name.removeprefix('STEP_')}"
            taken[key] = PatternPlan(chosen, predicate, graph.kinds, sees, node)
        patterns[node.name] = taken[key]
    return Plan(graph, layouts, patterns, _scratch_rows(graph, layouts))


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
    rows = zip(layout.order(1), layout.facts(1)["offset"], strict=True)
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


def _scratch_rows(graph: Graph, layouts: Mapping[str, LayoutPlan]) -> int:
    """Return how far behind the committed prefix a step, or the prefill's masks, may write."""
    most = max((plan.size.fixed for plan in layouts.values()), default=0)
    for variant in graph.variants:
        appended = 0
        for node in walk(variant.step.nodes):
            if node.name in layouts:
                most = max(most, appended + layouts[node.name].size.at(0))
                appended += layouts[node.name].appended()
            elif isinstance(node.op, Repeat) and node.op.keys == "kept":
                # Sequences that are done write behind what they keep.
                kept = max(
                    layouts[n.name].size.at(0) for n in node.op.body.nodes if n.name in layouts
                )
                most = max(most, appended + 2 * kept)
                appended += kept
    return most
