"""Where emitted tokens come from: through `sample`, or around it.

Temperature, filters, logits processors and the thinking budget apply where a token is sampled; EOS,
stop strings and `max_new_tokens` where it is emitted. A token of the prompt, of a lookup or of a
masked row that reaches `emit` went around the first; an `accept` that found it equal to a sampled
token puts that right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import networkx as nx

from nldc.check.lossless import codes
from nldc.check.lossless.closure import Closer, Closure
from nldc.check.lossless.said import NEVER, Emitted, Said, text_before
from nldc.check.lossless.terms import MASK, Term
from nldc.check.lossless.trace import Outcome, Trace, Tracer, UnknowableError, outcomes
from nldc.ir.graph import Graph, walk
from nldc.ir.ops import LayRows, Node, Region, Sample, Value
from nldc.ir.ranges import UndecidedError
from nldc.ir.scope import PROMPT

MOST_OUTCOMES = 5000
"""More combinations of accepted counts than this are not examined."""


@dataclass(frozen=True)
class Way:
    """How a token reaches `emit` around `sample`: the nodes on its way, and the use at its end.

    `ended`: it may be one that a loop left masked, or copied, behind an EOS in a row that is not
    emitted before it.
    """

    code: str
    nodes: tuple[str, ...]
    use: Value
    ended: bool = False


class Ways:
    """The ways of tokens to `emit` in one graph, in every outcome of its accepts.

    `alone`: it is the only step of its file, so that nobody else makes what it carries.

    Raises:
        UndecidedError: there are too many outcomes, or a predicate may have no value.
        UnknowableError: not even the number of tokens of a value is known.
    """

    def __init__(self, graph: Graph, *, alone: bool = False) -> None:
        self.graph = graph
        self.tracer, self.closer = Tracer(graph), Closer()
        self.nodes = {n.name: n for n in walk((*graph.prefill.nodes, *graph.step.nodes))}
        self.prefill = self._closed([self.tracer.prefill(2, o) for o in _few(graph.prefill)])
        self.steps = self._closed([self.tracer.step(o) for o in _few(graph.step)])
        self.before: frozenset[Term] = frozenset()
        if alone:
            self.before = text_before(graph, self.prefill, self.steps, self._terms)

    def _closed(self, traces: Sequence[Trace]) -> list[Closure]:
        return [self.closer.close(trace, frozenset(), trace.prompt_length) for trace in traces]

    def around(self) -> Way | None:
        """Return the first way around `sample`."""
        graph = self.graph
        for closures, tokens in (
            (self.prefill, graph.prefill_tokens),
            (self.steps, graph.emit.tokens),
        ):
            for closure in closures if tokens is not None else ():
                assert tokens is not None
                terms = self._terms(tokens, closure)
                emitted = Emitted(closure, terms, self.before)
                for place, term in enumerate(terms):
                    found = self._source(term, closure, frozenset(), Said(emitted, place))
                    if found is not None:
                        return self._way(found, tokens)
        return None

    def sampled_by(self) -> tuple[str, ...]:
        """Return the nodes that choose the emitted tokens, in the order of the file."""
        graph, found = self.graph, set[str]()
        if graph.prefill_tokens is not None:
            for closure in self.prefill:
                for term in self._terms(graph.prefill_tokens, closure):
                    found |= self._choosers(term, closure, frozenset())
        for closure in self.steps:
            for term in self._terms(graph.emit.tokens, closure):
                found |= self._choosers(term, closure, frozenset())
        return tuple(name for name in self.nodes if name in found)

    def _choosers(self, term: Term, closure: Closure, seen: frozenset[Term]) -> set[str]:
        """Return the `sample` nodes that a term comes from: verifiers before those they confirm."""
        members = closure.equalities.members(term)
        chosen = [member for member in members if member[0] == "choice"]
        if chosen:
            return {name for member in chosen for name in self._samples_of(member, closure)}
        found: set[str] = set()
        for member in members:
            if member in seen:
                continue
            further = seen | {member}
            if member[0] == "carry":
                item = next(c for c in self.graph.carry if c.name == member[1])
                for closures, value in ((self.prefill, item.initial), (self.steps, item.next)):
                    for other in closures:
                        made = self._terms(value, other)[int(member[2])]
                        found |= self._choosers(made, other, further)
            elif member in closure.trace.origins:
                for origin in closure.trace.origins[member]:
                    found |= self._choosers(origin, closure, further)
            elif member[0] == "made" and isinstance(self.nodes[str(member[1])].op, Sample):
                found.add(str(member[1]))
        return found

    def _samples_of(self, member: Term, closure: Closure) -> Iterator[str]:
        """Yield the nodes that sample from a computed row."""
        for name, node in self.nodes.items():
            held = closure.trace.values.get(name)
            if isinstance(node.op, Sample) and isinstance(held, tuple) and member in held:
                yield name

    def _terms(self, value: Value, closure: Closure) -> tuple[Term, ...]:
        held = self.tracer.value(closure.trace, value, closure.trace.prompt_length)
        held = getattr(held, "tokens", held)
        if not isinstance(held, tuple):
            raise UnknowableError(value)
        return held

    def _source(
        self, term: Term, closure: Closure, seen: frozenset[Term], here: Said
    ) -> str | None:
        """Return the node that a term comes from around `sample`, or None if it does not.

        `here` is what has been emitted when the term is.
        """
        found: str | None = None
        for member in closure.equalities.members(term):
            source = self._source_of(member, closure, seen, here)
            if source is None:
                return None
            found = source if member == term or found is None else found
        return found

    def _source_of(
        self, term: Term, closure: Closure, seen: frozenset[Term], here: Said
    ) -> str | None:
        if term[0] == "choice" or term in seen:
            return None
        seen = seen | {term}
        if term in closure.trace.origins:
            for origin in sorted(here.open_origins(term), key=str):
                source = self._source(origin, closure, seen, here)
                if source is not None:
                    ended = term in closure.trace.ends
                    return source.replace("loop ", "ended ") if ended else source
            return None
        if term[0] == "carry":
            return self._carried(str(term[1]), int(term[2]), seen)
        if term[0] == "made":
            node = self.nodes[str(term[1])]
            return None if isinstance(node.op, Sample) else node.name
        if term[0] == "unfilled":
            return f"loop {term[1]}"
        if term[0] == "copied":
            return f"copied {term[1]}"
        if term == MASK:
            return "mask"
        return PROMPT

    def _carried(self, name: str, element: int, seen: frozenset[Term]) -> str | None:
        item = next(c for c in self.graph.carry if c.name == name)
        for closures, value, tokens in (
            (self.prefill, item.initial, self.graph.prefill_tokens),
            (self.steps, item.next, self.graph.emit.tokens),
        ):
            for closure in closures:
                term = self._terms(value, closure)[element]
                emitted = () if tokens is None else self._terms(tokens, closure)
                here = Said(Emitted(closure, emitted, self.before), NEVER)
                found = self._source(term, closure, seen, here)
                if found is not None:
                    return found
        return None

    def _way(self, source: str, use: Value) -> Way:
        what, _, start = source.rpartition(" ")
        code = codes.LOOP_ENDS_EARLY if what in ("loop", "ended") else codes.AROUND_SAMPLE
        if source == "mask":
            rows = [n.name for n in self.nodes.values() if _has_masks(n)]
            start = next((n for n in rows if self._reaches(n, use.node)), use.node)
        edges = self.graph.dependencies()
        path = [use.node]
        if start in edges and use.node in edges and nx.has_path(edges, start, use.node):
            path = nx.shortest_path(edges, start, use.node)
        elif start not in path:
            path = [start, *path]
        return Way(code, tuple(path), use, ended=what in ("ended", "copied"))

    def _reaches(self, start: str, end: str) -> bool:
        edges = self.graph.dependencies()
        return start in edges and end in edges and nx.has_path(edges, start, end)


def _has_masks(node: Node) -> bool:
    return isinstance(node.op, LayRows) and any(not s.tokens for s in node.op.layout.segments)


def _few(region: Region) -> list[Outcome]:
    """Return every outcome of a region.

    Raises:
        UndecidedError: there are too many.
    """
    found = list(islice(outcomes(region), MOST_OUTCOMES + 1))
    if len(found) > MOST_OUTCOMES:
        raise UndecidedError(f"there are more than {MOST_OUTCOMES} outcomes")
    return found
