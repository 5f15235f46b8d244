"""Drop what nobody uses; a forward or loop that appends stays, for the cache is a use."""

from __future__ import annotations

from dataclasses import replace

from nldc.codegen.rewrite import map_graph
from nldc.ir.graph import Graph, uses
from nldc.ir.ops import Forward, Node, Region, Repeat, Value
from nldc.ir.scope import FALSE


def drop_dead(graph: Graph) -> Graph:
    """Return the graph without nodes whose values reach neither an output nor the cache."""
    needed = {value.node for value in _outputs(graph)}

    def live(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        kept: list[Node] = []
        for node in reversed(nodes):
            if node.name not in needed and not _appends(node):
                continue
            if isinstance(node.op, Repeat):
                needed.add(node.op.result.node)
                node = replace(node, op=replace(node.op, body=Region(live(node.op.body.nodes))))
            needed.update(value.node for value in uses(node.op))
            kept.append(node)
        return tuple(reversed(kept))

    step = live(graph.step.nodes)
    prefill = live(graph.prefill.nodes)
    result = iter((prefill, step))
    return map_graph(graph, lambda _: next(result))


def _appends(node: Node) -> bool:
    if isinstance(node.op, Repeat):
        return node.op.keys == "kept"
    return isinstance(node.op, Forward) and node.op.append != FALSE


def _outputs(graph: Graph) -> list[Value]:
    values = list(uses(graph.emit))
    values += list(uses(graph.prefill_tokens))
    values += [carried.initial for other in graph.alternatives for carried in other.graph.carry]
    for carried in graph.carry:
        values += [*uses(carried.initial), *uses(carried.next)]
    return values
