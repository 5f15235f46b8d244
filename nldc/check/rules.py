"""The table of rules over whole graphs. All run; what they find is sorted by place elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nldc.check.bounds import bounds
from nldc.check.lossless import cache_order, constraints, lossless
from nldc.check.mixed_positions import mixed_positions
from nldc.check.uncounted import uncounted
from nldc.check.unused_adapter import unused_adapter
from nldc.check.unused_node import unused_node
from nldc.diagnostics import Diagnostic
from nldc.ir.graph import Graph
from nldc.source import Source

Rule = Callable[[Graph, Source], Iterator[Diagnostic]]

RULES: tuple[Rule, ...] = (
    unused_node,
    unused_adapter,
    mixed_positions,
    lossless,
    constraints,
    cache_order,
    uncounted,
)


def check_graph(graph: Graph, source: Source) -> list[Diagnostic]:
    """Return everything that the rules find in a graph.

    Nothing is proved of numbers that are too large: they are other numbers in a kernel.
    """
    large = list(bounds(graph, source))
    return large or [diagnostic for rule in RULES for diagnostic in rule(graph, source)]
