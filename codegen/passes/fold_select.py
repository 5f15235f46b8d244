"""Drop a selection that takes every row: a probability is always at least 0."""

from __future__ import annotations

from dataclasses import replace

from nldc.codegen.rewrite import map_graph, substitute, without
from nldc.ir.effects import takes_all
from nldc.ir.graph import Graph
from nldc.ir.ops import Node, Region, Repeat, Select, Value


def fold_select(graph: Graph) -> Graph:
    """Replace each selection that takes all of `among` by `among` itself."""
    instead: dict[str, Value] = {
        node.name: node.op.among
        for node in graph.nodes
        if isinstance(node.op, Select) and takes_all(node.op)
    }
    if not instead:
        return graph
    names = set(instead)
    return substitute(map_graph(graph, lambda ns: _drop(ns, names)), instead)


def _drop(nodes: tuple[Node, ...], names: set[str]) -> tuple[Node, ...]:
    kept: list[Node] = []
    for node in without(nodes, names):
        if isinstance(node.op, Repeat):
            body = Region(_drop(node.op.body.nodes, names))
            node = replace(node, op=replace(node.op, body=body))
        kept.append(node)
    return tuple(kept)
