"""Logits of different positions that are mixed: the sum predicts neither.

What is sampled from it would be drawn with the noise, the processors and the thinking budget of the
first part's position.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from nldc.check.lossless.outcomes import MOST_OUTCOMES, outcomes
from nldc.check.lossless.places import node_path
from nldc.check.lossless.trace import Trace, Tracer, UnknowableError
from nldc.diagnostics import Diagnostic, Label
from nldc.ir.graph import Graph, walk
from nldc.ir.ops import Mix, Region
from nldc.ir.picks import PROBES
from nldc.ir.ranges import UndecidedError
from nldc.source import Source

CODE = "NLD056"


def mixed_positions(graph: Graph, source: Source) -> Iterator[Diagnostic]:
    """Refuse each mix of logits that are known to predict different positions."""
    found: dict[str, Diagnostic] = {}
    for trace in _traces(graph):
        for node, one, other in trace.torn:
            path = (*node_path(node.name, source), "logits")
            labels = (
                Label(source.span((*path, other)), "these predict other positions"),
                Label(source.span((*path, one)), "than these", primary=False),
            )
            message = "logits of different positions are mixed"
            help_text = "choose rows that predict the same tokens: a causal row predicts the next"
            diagnostic = Diagnostic(CODE, "error", message, labels, (help_text,))
            found.setdefault(node.name, diagnostic)
    yield from found.values()


def _traces(graph: Graph) -> Iterator[Trace]:
    """Yield the regions in which logits are mixed, in every outcome."""

    def mixes(region: Region) -> bool:
        return any(isinstance(node.op, Mix) for node in walk(region.nodes))

    try:
        if mixes(graph.prefill):
            for length in PROBES:
                for outcome in islice(outcomes(graph, None), MOST_OUTCOMES):
                    yield Tracer(graph).prefill(length, outcome)
        for step in graph.steps:
            if mixes(step.region):
                tracer = Tracer(graph)
                for outcome in islice(outcomes(graph, step), MOST_OUTCOMES):
                    yield tracer.step(step, outcome)
    except (UndecidedError, UnknowableError):
        return  # said where exactness and constraints are decided
