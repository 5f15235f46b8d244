"""A guarantee that is not proved: refused, with the first cause of every fault underlined."""

from __future__ import annotations

from collections.abc import Iterator

from nldc.check.lossless import codes
from nldc.check.lossless.certificate import Problem
from nldc.check.lossless.codes import KINDS
from nldc.check.lossless.prove import prove
from nldc.diagnostics import Diagnostic, Label, Span
from nldc.ir.graph import Graph
from nldc.source import Path, Source


def lossless(graph: Graph, source: Source) -> Iterator[Diagnostic]:
    """Yield an error for each reason why the promised guarantee cannot be proved."""
    if graph.guarantee == "none":
        return
    certificate = prove(graph)
    promise = Label(source.span(("guarantee",)), "promised here", primary=False)
    for problem in certificate.problems:
        yield _diagnostic(problem, source, promise)
    if certificate.problems and graph.guarantee == "distribution":
        kind = KINDS[codes.DISTRIBUTION]
        label = Label(source.span(("guarantee",)), "promised here")
        yield Diagnostic(codes.DISTRIBUTION, "error", kind.message, (label,), (kind.help,))


def _diagnostic(problem: Problem, source: Source, promise: Label) -> Diagnostic:
    labels = [Label(_span(problem, source), problem.text)]
    if problem.context_span is not None and problem.context:
        labels.append(Label(problem.context_span, problem.context, primary=False))
    labels.append(promise)
    return Diagnostic(
        problem.code, "error", problem.message, tuple(labels), (KINDS[problem.code].help,)
    )


def _span(problem: Problem, source: Source) -> Span:
    if problem.span is not None:
        return problem.span
    path = _path(problem.node, source)
    if problem.key is not None and (*path, problem.key) in source.spans:
        return source.span((*path, problem.key))
    return source.span(path, key=True)


def _path(node: str, source: Source) -> Path:
    """Return where a node stands in the file: the bodies of loops come between the names."""
    parts = node.split(".")
    path: Path = (parts[0],) if parts[0] in source.data else ("steps", parts[0])
    for part in parts[1:]:
        inside = (*path, "body", part)
        path = inside if inside in source.spans else (*path, part)
        if path not in source.spans:
            return path[:-1] or path
    return path
