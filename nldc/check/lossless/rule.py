"""A guarantee that is not proved: refused, with the first cause of every fault underlined."""

from __future__ import annotations

from collections.abc import Iterator

from nldc.check.lossless import codes
from nldc.check.lossless.certificate import Certificate, Problem
from nldc.check.lossless.codes import KINDS
from nldc.check.lossless.places import node_span
from nldc.diagnostics import Diagnostic, Label
from nldc.ir.graph import Graph
from nldc.source import Source


def lossless(graph: Graph, source: Source, certificate: Certificate | None) -> Iterator[Diagnostic]:
    """Yield an error for each reason why the promised guarantee cannot be proved.

    `certificate` is that of a graph which promises something.
    """
    if certificate is None:
        return
    for problem in certificate.problems:
        yield unproved(problem, source)
    if certificate.problems and graph.guarantee == "distribution":
        kind = KINDS[codes.DISTRIBUTION]
        label = Label(source.span(("guarantee",)), "promised here")
        yield Diagnostic(codes.DISTRIBUTION, "error", kind.message, (label,), (kind.help,))


def unproved(problem: Problem, source: Source) -> Diagnostic:
    """Return the error for a reason against a promise, with the promise underlined beside it."""
    labels = [Label(problem.span or node_span(problem.node, source, problem.key), problem.text)]
    if problem.context_span is not None and problem.context:
        labels.append(Label(problem.context_span, problem.context, primary=False))
    labels.append(Label(source.span(("guarantee",)), "promised here", primary=False))
    return Diagnostic(
        problem.code,
        "error",
        problem.message,
        tuple(labels),
        (problem.help or KINDS[problem.code].help,),
    )
