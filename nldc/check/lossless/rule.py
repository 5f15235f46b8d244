"""A guarantee that is not proved: refused, with the first cause of every fault underlined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nldc.check.lossless import codes
from nldc.check.lossless.certificate import Problem
from nldc.check.lossless.codes import KINDS
from nldc.check.lossless.places import node_span
from nldc.check.lossless.prove import prove
from nldc.diagnostics import Diagnostic, Label
from nldc.ir.build import build
from nldc.ir.graph import Graph
from nldc.source import Source


def lossless(graph: Graph, source: Source) -> Iterator[Diagnostic]:
    """Yield an error for each reason why the promised guarantee cannot be proved."""
    if graph.guarantee == "none":
        return
    certificate = prove(graph)
    promise = Label(source.span(("guarantee",)), "promised here", primary=False)
    for problem in certificate.problems:
        yield _diagnostic(problem, source, promise)
    if not certificate.problems:
        yield from _elsewhere(graph, source, promise)
    if certificate.problems and graph.guarantee == "distribution":
        kind = KINDS[codes.DISTRIBUTION]
        label = Label(source.span(("guarantee",)), "promised here")
        yield Diagnostic(codes.DISTRIBUTION, "error", kind.message, (label,), (kind.help,))


def _elsewhere(graph: Graph, source: Source, promise: Label) -> Iterator[Diagnostic]:
    """Warn where the promise is kept for these params and not for smaller ones."""
    for name, value in _small(graph, source):
        made = build(source, {**graph.params, name: value}, graph.compat).graph
        problems = () if made is None else prove(made).problems
        for problem in problems:
            diagnostic = _diagnostic(problem, source, promise)
            note = f"with {name} = {value}; for the params as they are it is proved"
            yield replace(diagnostic, severity="warning", notes=(note,))
        if problems:
            return


def _small(graph: Graph, source: Source) -> Iterator[tuple[str, int]]:
    """Yield each whole param with its two lowest values."""
    for name, declared in (source.data.get("params") or {}).items():
        if declared["type"] == "int":
            for value in (declared["min"], declared["min"] + 1):
                if value <= declared["max"] and value != graph.params[name]:
                    yield name, value


def _diagnostic(problem: Problem, source: Source, promise: Label) -> Diagnostic:
    labels = [Label(problem.span or node_span(problem.node, source, problem.key), problem.text)]
    if problem.context_span is not None and problem.context:
        labels.append(Label(problem.context_span, problem.context, primary=False))
    labels.append(promise)
    return Diagnostic(
        problem.code, "error", problem.message, tuple(labels), (KINDS[problem.code].help,)
    )
