"""The table of rules over whole graphs. All run; what they find is sorted by place elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nldc.check.bounds import bounds
from nldc.check.lossless import Certificate, cache_order, constraints, lossless, prove
from nldc.check.mixed_positions import mixed_positions
from nldc.check.uncounted import uncounted
from nldc.check.unused_adapter import unused_adapter
from nldc.check.unused_node import unused_node
from nldc.diagnostics import Diagnostic
from nldc.ir.graph import Graph
from nldc.source import Source

Rule = Callable[[Graph, Source], Iterator[Diagnostic]]
ProofRule = Callable[[Graph, Source, Certificate | None], Iterator[Diagnostic]]

PROOF_RULES: tuple[ProofRule, ...] = (lossless, cache_order, uncounted)
"""Those that ask what is proved, which is found once for all of them."""

RULES: tuple[Rule, ...] = (unused_node, unused_adapter, mixed_positions, constraints)


@dataclass(frozen=True)
class Found:
    """What the rules find in a graph, and the certificate if it promises something."""

    diagnostics: tuple[Diagnostic, ...]
    certificate: Certificate | None


def examine(graph: Graph, source: Source) -> Found:
    """Return everything that the rules find in a graph, and its certificate.

    Nothing is proved of numbers that are too large: they are other numbers in a kernel.
    """
    large = tuple(bounds(graph, source))
    if large:
        return Found(large, None)
    certificate = None if graph.guarantee == "none" else prove(graph)
    found = [d for rule in PROOF_RULES for d in rule(graph, source, certificate)]
    found += [d for rule in RULES for d in rule(graph, source)]
    return Found(tuple(found), certificate)


def check_graph(graph: Graph, source: Source) -> list[Diagnostic]:
    """Return everything that the rules find in a graph."""
    return list(examine(graph, source).diagnostics)
