"""An adapter that is declared and switched on nowhere."""

from __future__ import annotations

from collections.abc import Iterator

from nldc.diagnostics import Diagnostic, Label
from nldc.ir.graph import Graph
from nldc.ir.ops import Forward, Safety
from nldc.source import Source

CODE = "NLD091"


def unused_adapter(graph: Graph, source: Source) -> Iterator[Diagnostic]:
    """Warn of each declared adapter that no forward names, and of samplers that none asks."""
    used = {node.op.adapter for node in graph.nodes if isinstance(node.op, Forward)}
    used |= {node.op.sampler for node in graph.nodes if isinstance(node.op, Safety)}
    for adapter in graph.adapters:
        if adapter.name not in used:
            span = source.span(("adapters", adapter.name), key=True)
            if adapter.kind == "sampler":
                message = f"nothing asks the sampler `{adapter.name}`"
                help_text = f"ask it: {{op: safety, sampler: {adapter.name}, …}}"
            else:
                message = f"no forward uses the adapter `{adapter.name}`"
                help_text = f"switch it on in a forward: adapter: {adapter.name}"
            yield Diagnostic(CODE, "warning", message, (Label(span, "never used"),), (help_text,))
