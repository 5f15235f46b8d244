"""Constraints dominate commits: every emitted token went through `sample`, whatever is promised.

Temperature, filters, logits processors and budgets apply where a token is sampled, and EOS, stop
strings and `max_new_tokens` where it is emitted. A token of the prompt, of a lookup or of a masked
row that reaches `emit` went around the first; an `accept` that found it equal to a sampled token
puts that right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import networkx as nx

from nldc.check.lossless import codes
from nldc.check.lossless.closure import Closer, Closure
from nldc.check.lossless.codes import KINDS
from nldc.check.lossless.places import node_span
from nldc.check.lossless.terms import MASK, Term
from nldc.check.lossless.trace import Trace, Tracer, UnknowableError, outcomes
from nldc.diagnostics import Diagnostic, Label
from nldc.ir.graph import Graph, walk
from nldc.ir.ops import LayRows, Node, Repeat, Sample, Value
from nldc.ir.ranges import UndecidedError
from nldc.ir.scope import PROMPT
from nldc.source import Source

MOST_OUTCOMES = 64
"""Outcomes that are looked at; which nodes a token comes from hardly ever depends on them."""


def constraints(graph: Graph, source: Source) -> Iterator[Diagnostic]:
    """Refuse a strategy that emits a token which no `sample` chose, and print its way."""
    if graph.guarantee != "none":
        return  # the proof of the guarantee says more
    for variant in graph.variants:
        try:
            way = _Ways(variant).around()
        except (UndecidedError, UnknowableError):
            continue
        if way is not None:
            yield _diagnostic(way, source)
            return


@dataclass(frozen=True)
class Way:
    """How a token reaches `emit` around `sample`: the nodes on its way, and the use at its end."""

    code: str
    nodes: tuple[str, ...]
    use: Value


class _Ways:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tracer, self.closer = Tracer(graph), Closer()
        self.nodes = {n.name: n for n in walk((*graph.prefill.nodes, *graph.step.nodes))}
        self.prefill = self._closed([self.tracer.prefill(2, o) for o in outcomes(graph.prefill)])
        steps = [o for o, _ in zip(outcomes(graph.step), range(MOST_OUTCOMES), strict=False)]
        self.steps = self._closed([self.tracer.step(outcome) for outcome in steps])

    def _closed(self, traces: Sequence[Trace]) -> list[Closure]:
        return [self.closer.close(trace, frozenset(), trace.prompt_length) for trace in traces]

    def around(self) -> Way | None:
        """Return the first way around `sample`."""
        graph = self.graph
        if graph.prefill_tokens is not None:
            for closure in self.prefill:
                for term in self._terms(graph.prefill_tokens, closure):
                    found = self._source(term, closure, frozenset())
                    if found is not None:
                        return self._way(found, graph.prefill_tokens)
        for closure in self.steps:
            for term in self._terms(graph.emit.tokens, closure):
                found = self._source(term, closure, frozenset())
                if found is not None:
                    return self._way(found, graph.emit.tokens)
        return None

    def _terms(self, value: Value, closure: Closure) -> tuple[Term, ...]:
        held = self.tracer.value(closure.trace, value, closure.trace.prompt_length)
        held = getattr(held, "tokens", held)
        if not isinstance(held, tuple):
            raise UnknowableError(value)
        return held

    def _source(self, term: Term, closure: Closure, seen: frozenset[Term]) -> str | None:
        """Return the node that a term comes from around `sample`, or None if it does not."""
        found: str | None = None
        for member in closure.equalities.members(term):
            source = self._source_of(member, closure, seen)
            if source is None:
                return None
            found = source if member == term or found is None else found
        return found

    def _source_of(self, term: Term, closure: Closure, seen: frozenset[Term]) -> str | None:
        if term[0] == "choice" or term in seen:
            return None
        seen = seen | {term}
        origins = closure.trace.origins.get(term)
        if origins is not None:
            sources = [self._source(origin, closure, seen) for origin in sorted(origins, key=str)]
            return self._named(next((s for s in sources if s is not None), None), term)
        if term[0] == "carry":
            return self._carried(str(term[1]), int(term[2]), seen)
        if term[0] == "made":
            node = self.nodes[str(term[1])]
            return None if isinstance(node.op, Sample) else node.name
        if term == MASK:
            return "mask"
        return PROMPT

    def _named(self, source: str | None, term: Term) -> str | None:
        """Name the loop that leaves masked rows, rather than the masks."""
        is_loop = isinstance(self.nodes[str(term[1])].op, Repeat)
        return f"loop {term[1]}" if source == "mask" and is_loop else source

    def _carried(self, name: str, element: int, seen: frozenset[Term]) -> str | None:
        item = next(c for c in self.graph.carry if c.name == name)
        for closures, value in ((self.prefill, item.initial), (self.steps, item.next)):
            for closure in closures:
                term = self._terms(value, closure)[element]
                found = self._source(term, closure, seen)
                if found is not None:
                    return found
        return None

    def _way(self, source: str, use: Value) -> Way:
        code = codes.LOOP_ENDS_EARLY if source.startswith("loop ") else codes.AROUND_SAMPLE
        start = source.removeprefix("loop ")
        if source == "mask":
            rows = [n.name for n in self.nodes.values() if _has_masks(n)]
            start = next((n for n in rows if self._reaches(n, use.node)), use.node)
        edges = self.graph.dependencies()
        path = [use.node]
        if start in edges and use.node in edges and nx.has_path(edges, start, use.node):
            path = nx.shortest_path(edges, start, use.node)
        elif start not in path:
            path = [start, *path]
        return Way(code, tuple(path), use)

    def _reaches(self, start: str, end: str) -> bool:
        edges = self.graph.dependencies()
        return start in edges and end in edges and nx.has_path(edges, start, end)


def _has_masks(node: Node) -> bool:
    return isinstance(node.op, LayRows) and any(not s.tokens for s in node.op.layout.segments)


def _diagnostic(way: Way, source: Source) -> Diagnostic:
    kind = KINDS[way.code]
    names = [name.split(".", 1)[-1] if name != PROMPT else name for name in way.nodes]
    path = " -> ".join(f"`{name}`" for name in (*names, "emit"))
    labels = [Label(way.use.span, f"its way is {path}")]
    first = way.nodes[0]
    if first != PROMPT and not first.startswith("carry."):
        labels.append(Label(node_span(first, source), "it comes from here", primary=False))
    return Diagnostic(way.code, "error", kind.message, tuple(labels), (kind.help,))
