"""A node whose value nobody uses: harmless, and most often a slip of the pen."""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx

from nldc.diagnostics import Diagnostic, Label
from nldc.ir.graph import Graph, walk
from nldc.ir.ops import Forward, Node, Repeat
from nldc.ir.scope import FALSE
from nldc.source import Source

CODE = "NLD033"


def unused_node(graph: Graph, source: Source) -> Iterator[Diagnostic]:
    """Warn of each node from which no path leads to what is emitted, kept or carried."""
    del source
    edges = nx.compose_all([variant.dependencies() for variant in graph.variants])
    steps = (node for variant in graph.variants for node in variant.step.nodes)
    nodes = list(walk((*graph.prefill.nodes, *steps)))
    for node in nodes:
        if isinstance(node.op, Repeat):
            for inner in node.op.body.nodes:
                edges.add_edge(inner.name, node.name)
        if _has_effect(node):
            edges.add_edge(node.name, "emit")
    useful = nx.ancestors(edges, "emit") if "emit" in edges else set()
    for node in nodes:
        if node.name not in useful and not _has_effect(node):
            yield Diagnostic(
                CODE,
                "warning",
                f"nothing uses `{node.name.rsplit('.', 1)[1]}`",
                (Label(node.span, "never used"),),
                ("remove it, or use it in `emit`",),
            )


def _has_effect(node: Node) -> bool:
    return isinstance(node.op, Forward) and node.op.append != FALSE
