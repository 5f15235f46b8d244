"""How many rows of a value a sequence uses, where that differs by sequence: by which Count."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nldc.codegen.values import chosen
from nldc.ir.graph import Graph
from nldc.ir.ops import Accept, Forward, Sample, Value
from nldc.ir.types import Accepted


@dataclass(frozen=True)
class Length:
    """So many rows for each value of a Count, of which the first is `low`."""

    count: Value
    low: int
    sizes: tuple[int, ...]

    def plus(self, more: int) -> Length:
        """Return the length of so many rows more."""
        return replace(self, sizes=tuple(size + more for size in self.sizes))


def length_of(graph: Graph, value: Value) -> Length | None:
    """Return how long the part of a value is that a sequence uses; None: all of it."""
    if value.picks:
        if value.count is None:
            return None
        sizes = {count: len(rows) for count, rows in chosen(graph, value).items()}
        if len(set(sizes.values())) == 1:
            return None
        return Length(value.count, min(sizes), tuple(sizes[count] for count in sorted(sizes)))
    node = next((node for node in graph.nodes if node.name == value.node), None)
    match None if node is None else node.op:
        case Forward(rows) | Sample(rows):
            return length_of(graph, rows)
        case Accept() as op if value.field in ("tokens", "drafted") and node is not None:
            whole = value.field == "tokens" or op.offset == 1
            count = Value(value.node, value.span, "rows" if whole else "matches")
            low = 1 if whole else 0
            assert isinstance(node.type, Accepted)
            return Length(count, low, tuple(range(low, low + node.type.most)))
        case _:
            return None
