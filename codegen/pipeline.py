"""The passes, in order. Each leaves a valid graph; `trace` hands out what is between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nldc.codegen.passes.drop_dead import drop_dead
from nldc.codegen.passes.fold_select import fold_select
from nldc.codegen.passes.unroll_repeat import unroll_repeat
from nldc.ir.graph import Graph

Pass = Callable[[Graph], Graph]

PASSES: tuple[Pass, ...] = (fold_select, unroll_repeat, drop_dead)


def run(graph: Graph, trace: Callable[[str, Graph], None] = lambda _name, _graph: None) -> Graph:
    """Return the graph after every pass; `trace` sees each pass's name and result."""
    others = tuple(replace(other, graph=run(other.graph)) for other in graph.alternatives)
    for step in PASSES:
        graph = step(graph)
        trace(step.__name__, graph)
    return replace(graph, alternatives=others)
