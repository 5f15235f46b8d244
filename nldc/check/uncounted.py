"""A forward that chooses what is emitted and is left out of NFE, so that TPF means nothing."""

from __future__ import annotations

from collections.abc import Iterator

from nldc.check.lossless import Certificate
from nldc.check.lossless.constraints import chosen_by
from nldc.check.lossless.places import node_span
from nldc.diagnostics import Diagnostic, Label
from nldc.ir.graph import Graph, uses, walk
from nldc.ir.ops import Forward, Mix, Node, Sample
from nldc.source import Source

CODE = "NLD078"


def uncounted(
    graph: Graph, source: Source, certificate: Certificate | None
) -> Iterator[Diagnostic]:
    """Warn of each forward of a step that is not counted and whose choices are emitted.

    `certificate` is that of a graph which promises something.
    """
    steps = [node for step in graph.steps for node in walk(step.region.nodes)]
    nodes = {node.name: node for node in steps}
    if all(node.op.counted for node in steps if isinstance(node.op, Forward)):
        return
    chosen = chosen_by(graph, certificate)
    found = dict.fromkeys(n for name in chosen for n in _forwards(name, nodes))
    for node in steps:
        if node.name in found and isinstance(node.op, Forward) and not node.op.counted:
            yield Diagnostic(
                CODE,
                "warning",
                "a forward that chooses emitted tokens is not counted",
                (Label(node_span(node.name, source, "counted"), "left out of NFE"),),
                ("leave `counted: false` out, or say what TPF and NFE then mean",),
            )


def _forwards(name: str, nodes: dict[str, Node]) -> Iterator[str]:
    """Yield the forwards whose logits a node samples from, or mixes."""
    node = nodes.get(name)
    if node is not None and isinstance(node.op, Forward):
        yield name
    elif node is not None and isinstance(node.op, (Sample, Mix)):
        for value in uses(node.op):
            yield from _forwards(value.node, nodes)
