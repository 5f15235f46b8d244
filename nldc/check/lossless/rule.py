"""A guarantee that is not proved: refused, with the first cause of every fault underlined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nldc.check.lossless import codes
from nldc.check.lossless.certificate import Certificate, Problem
from nldc.check.lossless.codes import KINDS
from nldc.check.lossless.places import node_span
from nldc.check.lossless.prove import prove
from nldc.check.lossless.ways import work_of
from nldc.diagnostics import Diagnostic, Label
from nldc.ir.build import build
from nldc.ir.graph import Graph
from nldc.source import Source

MOST_WORK = 30_000
"""Values of nodes, over all outcomes, up to which the proof is repeated for a large param."""


def lossless(
    graph: Graph, source: Source, certificate: Certificate | None = None
) -> Iterator[Diagnostic]:
    """Yield an error for each reason why the promised guarantee cannot be proved.

    `certificate` is that of the graph, where it is known already.
    """
    if graph.guarantee == "none":
        return
    certificate = certificate or prove(graph)
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
    """Warn where the promise is kept for these params and not for others that may be set."""
    for name, values in _others(graph, source):
        for value in values:
            problems = _problems(graph, source, name, value)
            if not problems:
                continue
            least = value
            if value > graph.params[name]:
                least, problems = _least(graph, source, name, value, problems)
            note = f"with {name} = {least}; for the params as they are it is proved"
            for problem in problems:
                diagnostic = _diagnostic(problem, source, promise)
                yield replace(diagnostic, severity="warning", notes=(note,))
            return


def _others(graph: Graph, source: Source) -> Iterator[tuple[str, list[int]]]:
    """Yield each whole param with the other values that are tried: the two lowest, and a large one.

    That is the largest, or the largest of its halves for which the proof is little work.
    """
    for name, declared in (source.data.get("params") or {}).items():
        if declared["type"] != "int":
            continue
        low, high, own = declared["min"], declared["max"], int(graph.params[name])
        large = high
        while large > own and _work(graph, source, name, large) > MOST_WORK:
            large = (own + large) // 2
        values = [value for value in (low, low + 1) if value <= high and value != own]
        yield name, [*values, *([large] if large > max(own, low + 1) else [])]


def _least(
    graph: Graph, source: Source, name: str, value: int, problems: tuple[Problem, ...]
) -> tuple[int, tuple[Problem, ...]]:
    """Return the least value above the own for which the proof fails, if from there on all do."""
    proved = int(graph.params[name])
    while value - proved > 1:
        middle = (proved + value) // 2
        found = _problems(graph, source, name, middle)
        if found:
            value, problems = middle, found
        else:
            proved = middle
    return value, problems


def _with(graph: Graph, source: Source, name: str, value: int) -> Graph | None:
    return build(source, {**graph.params, name: value}, graph.compat).graph


def _problems(graph: Graph, source: Source, name: str, value: int) -> tuple[Problem, ...]:
    made = _with(graph, source, name, value)
    problems = () if made is None else prove(made).problems
    return tuple(problem for problem in problems if problem.code != codes.UNDECIDED)


def _work(graph: Graph, source: Source, name: str, value: int) -> int:
    made = _with(graph, source, name, value)
    regions = () if made is None else (made.prefill, *(each.step for each in made.variants))
    return sum(work_of(region) for region in regions)


def _diagnostic(problem: Problem, source: Source, promise: Label) -> Diagnostic:
    labels = [Label(problem.span or node_span(problem.node, source, problem.key), problem.text)]
    if problem.context_span is not None and problem.context:
        labels.append(Label(problem.context_span, problem.context, primary=False))
    labels.append(promise)
    return Diagnostic(
        problem.code,
        "error",
        problem.message,
        tuple(labels),
        (problem.help or KINDS[problem.code].help,),
    )
