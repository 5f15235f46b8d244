"""An adapter that is declared and switched on nowhere."""

from __future__ import annotations

from collections.abc import Iterator

from nldc.diagnostics import Diagnostic, Label
from nldc.ir.graph import Graph
from nldc.ir.ops import Forward
from nldc.source import Source

CODE = "NLD091"


def unused_adapter(graph: Graph, source: Source) -> Iterator[Diagnostic]:
    """Warn of each declared adapter that no forward names."""
    used = {node.op.adapter for node in graph.nodes if isinstance(node.op, Forward)}
    for adapter in graph.adapters:
        if adapter.name not in used:
            span = source.span(("adapters", adapter.name), key=True)
            yield Diagnostic(
                CODE,
                "warning",
                f"no forward uses the adapter `{adapter.name}`",
                (Label(span, "never used"),),
                (f"switch it on in a forward: adapter: {adapter.name}",),
            )
