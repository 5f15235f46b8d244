"""Prove that a strategy is exact, or say why not."""

from __future__ import annotations

from dataclasses import dataclass

from nldc.check.lossless.certificate import Certificate
from nldc.check.lossless.grounds import certificate_of
from nldc.check.lossless.solve import Solution, solve
from nldc.ir.graph import Graph


@dataclass(frozen=True)
class Proof:
    """What was solved of a graph, and its certificate: made once, and handed to who asks."""

    solution: Solution
    certificate: Certificate


def proof_of(graph: Graph) -> Proof:
    """Return the proof that the graph is exact, or what forbids it.

    The certificate does not depend on what the file promises, but for `claimed`.
    """
    solution = solve(graph)
    return Proof(solution, certificate_of(solution))


def prove(graph: Graph) -> Certificate:
    """Return a certificate that the graph is exact, or one with the problems that forbid it."""
    return proof_of(graph).certificate
