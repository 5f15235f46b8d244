"""A node whose value nobody uses: harmless, and most often a slip of the pen."""

from __future__ import annotations

from collections.abc import Iterator

from nldc.diagnostics import Diagnostic, Label
from nldc.ir.effects import live
from nldc.ir.graph import Graph
from nldc.source import Source

CODE = "NLD033"


def unused_node(graph: Graph, source: Source) -> Iterator[Diagnostic]:
    """Warn of each node from which no path leads to what is emitted, kept or carried."""
    del source
    used = live(graph)
    for node in graph.nodes:
        if node.name not in used:
            yield Diagnostic(
                CODE,
                "warning",
                f"nothing uses `{node.name.rsplit('.', 1)[1]}`",
                (Label(node.span, "never used"),),
                ("remove it, or use it in `emit`",),
            )
