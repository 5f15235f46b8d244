"""Where emitted tokens come from: through `sample`, or around it.

Temperature, filters, logits processors and the thinking budget apply where a token is sampled; EOS,
stop strings and `max_new_tokens` where it is emitted. A token of the prompt, of a lookup or of a
masked row that reaches `emit` went around the first; an `accept` that found it equal to a sampled
token puts that right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import networkx as nx

from nldc.check.lossless import codes
from nldc.check.lossless.closure import Closer, Closure, possible
from nldc.check.lossless.outcomes import affordable
from nldc.check.lossless.parts import Part
from nldc.check.lossless.prompts import prompt_lengths
from nldc.check.lossless.said import NEVER, Emitted, Said, text_before
from nldc.check.lossless.terms import MASK, Term
from nldc.check.lossless.trace import Trace, Tracer
from nldc.ir.graph import Graph
from nldc.ir.ops import LayRows, Node, Sample, Value
from nldc.ir.ranges import UndecidedError
from nldc.ir.scope import PROMPT


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
    """The ways of tokens to `emit` in a strategy, in every outcome of its accepts.

    What one step carries, another may emit: they are all looked at together. `steps` are the
    traces of each step where somebody has them already, and `tracer` is what made them.

    Raises:
        UndecidedError: there are too many outcomes, or a predicate may have no value.
        UnknowableError: not even the number of tokens of a value is known.
    """

    def __init__(
        self,
        graph: Graph,
        steps: Sequence[Sequence[Trace]] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.graph = graph
        self.closer = Closer()
        self.nodes = {node.name: node for node in graph.nodes}
        lengths = prompt_lengths(graph)
        if lengths is None:
            raise UndecidedError("rows of the prompt are chosen by numbers too large to try")
        tracer = Tracer(graph) if tracer is None else tracer
        few = affordable(graph, [None])
        begun = [tracer.prefill(length, outcome) for length in lengths for outcome in few]
        self.prefill = Part(graph, None, tracer, self._closed(begun))
        self.steps = list[Part]()
        for number, step in enumerate(graph.steps):
            few = affordable(graph, [step])
            traces = steps[number] if steps else [tracer.step(step, outcome) for outcome in few]
            self.steps.append(Part(graph, step, tracer, self._closed(traces)))
        self.before = text_before((self.prefill, *self.steps))

    def _closed(self, traces: Iterable[Trace]) -> list[Closure]:
        return [
            self.closer.close(trace, frozenset(), trace.prompt_length) for trace in possible(traces)
        ]

    def around(self) -> Way | None:
        """Return the first way around `sample`."""
        for part, closure, use in self._emitted():
            terms = part.terms(use, closure)
            emitted = Emitted(closure, terms, self.before)
            for place, term in enumerate(terms):
                found = self._source(term, closure, frozenset(), Said(emitted, place))
                if found is not None:
                    return self._way(found, use)
        return None

    def sampled_by(self) -> tuple[str, ...]:
        """Return the nodes that choose the emitted tokens, in the order of the file."""
        found = set[str]()
        for part, closure, use in self._emitted():
            for term in part.terms(use, closure):
                found |= self._choosers(term, closure, frozenset())
        return tuple(name for name in self.nodes if name in found)

    def _emitted(self) -> Iterator[tuple[Part, Closure, Value]]:
        """Yield what is emitted, by the prefill and by every step, in every outcome."""
        for part in (self.prefill, *self.steps):
            if part.tokens is not None:
                for closure in part.closures:
                    yield part, closure, part.tokens

    def _origins(self, name: str, element: int) -> Iterator[tuple[Term, Part, Closure]]:
        """Yield what an element of a carried value may be: made by the prefill, or by any step."""
        for part in (self.prefill, *self.steps):
            value = dict(part.carries())[name]
            for closure in part.closures:
                yield part.terms(value, closure)[element], part, closure

    def _choosers(self, term: Term, closure: Closure, seen: frozenset[Term]) -> set[str]:
        """Return the `sample` nodes that a term comes from: verifiers before those they confirm."""
        members = closure.equalities.members(term)
        chosen = [member for member in members if member[0] == "choice"]
        if term in chosen:
            chosen = [term]
        if chosen:
            return {name for member in chosen for name in self._samples_of(member, closure)}
        found: set[str] = set()
        for member in members:
            if member in seen:
                continue
            further = seen | {member}
            if member[0] == "carry":
                for made, _, other in self._origins(str(member[1]), int(member[2])):
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
        for term, part, closure in self._origins(name, element):
            here = Said(Emitted(closure, part.emitted(closure), self.before), NEVER)
            source = self._source(term, closure, seen, here)
            if source is not None:
                return source
        return None

    def _dependencies(self) -> nx.DiGraph[str]:
        """Return what each value is made of, over all steps."""
        edges = self.graph.dependencies()
        edges.remove_nodes_from(["emit"])
        return edges

    def _way(self, source: str, use: Value) -> Way:
        what, _, start = source.rpartition(" ")
        code = codes.LOOP_ENDS_EARLY if what in ("loop", "ended") else codes.AROUND_SAMPLE
        if source == "mask":
            rows = [n.name for n in self.nodes.values() if _has_masks(n)]
            start = next((n for n in rows if self._reaches(n, use.node)), use.node)
        edges = self._dependencies()
        path = [use.node]
        if start in edges and use.node in edges and nx.has_path(edges, start, use.node):
            path = nx.shortest_path(edges, start, use.node)
        elif start not in path:
            path = [start, *path]
        return Way(code, tuple(path), use, ended=what in ("ended", "copied"))

    def _reaches(self, start: str, end: str) -> bool:
        edges = self._dependencies()
        return start in edges and end in edges and nx.has_path(edges, start, end)


def _has_masks(node: Node) -> bool:
    return isinstance(node.op, LayRows) and any(not s.tokens for s in node.op.layout.segments)
