"""The table of rules over whole graphs. All run; what they find is sorted by place elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nldc.check.bounds import bounds
from nldc.check.lossless import Certificate, Proof, proof_of
from nldc.check.lossless.cache_order import cache_order
from nldc.check.lossless.constraints import constraints
from nldc.check.lossless.other_params import other_params
from nldc.check.lossless.rule import lossless
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
    """What the rules find in a graph, and the proof if it promises something."""

    diagnostics: tuple[Diagnostic, ...]
    proof: Proof | None


def examine(graph: Graph, source: Source, *, others: bool = True) -> Found:
    """Return everything that the rules find in a graph, and its proof.

    With `others`, the promise is tried for other params too; what is found there are warnings.
    Nothing is proved of numbers that are too large: they are other numbers in a kernel.
    """
    large = tuple(bounds(graph, source))
    if large:
        return Found(large, None)
    proof = None if graph.guarantee == "none" else proof_of(graph)
    certificate = None if proof is None else proof.certificate
    proof_rules = (*PROOF_RULES, other_params) if others else PROOF_RULES
    found = [d for rule in proof_rules for d in rule(graph, source, certificate)]
    found += [d for rule in RULES for d in rule(graph, source)]
    return Found(tuple(found), proof)


def check_graph(graph: Graph, source: Source) -> list[Diagnostic]:
    """Return everything that the rules find in a graph."""
    return list(examine(graph, source).diagnostics)
