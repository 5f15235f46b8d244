"""Drop what nobody uses; a forward or loop that appends stays, for the cache is a use."""

from __future__ import annotations

from dataclasses import replace

from nldc.codegen.rewrite import map_graph
from nldc.ir.effects import live
from nldc.ir.graph import Graph
from nldc.ir.ops import Node, Region, Repeat


def drop_dead(graph: Graph) -> Graph:
    """Return the graph without nodes whose values reach neither an output nor the cache."""
    needed = live(graph)

    def kept(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        return tuple(within(node) for node in nodes if node.name in needed)

    def within(node: Node) -> Node:
        if not isinstance(node.op, Repeat):
            return node
        return replace(node, op=replace(node.op, body=Region(kept(node.op.body.nodes))))

    return map_graph(graph, kept)
