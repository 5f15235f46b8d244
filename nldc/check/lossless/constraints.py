"""Constraints dominate commits: every emitted token went through `sample`, whatever is promised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nldc.check.lossless import codes
from nldc.check.lossless.certificate import Certificate
from nldc.check.lossless.codes import KINDS
from nldc.check.lossless.places import node_span
from nldc.check.lossless.trace import UnknowableError
from nldc.check.lossless.ways import Way, Ways
from nldc.diagnostics import Diagnostic, Label
from nldc.ir.graph import Graph
from nldc.ir.ranges import UndecidedError
from nldc.ir.scope import PROMPT
from nldc.source import Source


def constraints(graph: Graph, source: Source) -> Iterator[Diagnostic]:
    """Refuse a strategy that emits a token which no `sample` chose, and print its way."""
    if graph.guarantee != "none":
        return  # the proof of the guarantee says more
    try:
        way = Ways(graph).around()
    except (UndecidedError, UnknowableError) as reason:
        yield _undecided(graph, str(reason))
        return
    if way is not None:
        yield _diagnostic(way, source)


def chosen_by(graph: Graph, certificate: Certificate | None) -> tuple[str, ...]:
    """Return the `sample` nodes that choose what is emitted; none where that cannot be told.

    `certificate` is that of a graph which promises something.
    """
    if certificate is not None:
        return certificate.sampled_by
    try:
        return Ways(graph).sampled_by()
    except (UndecidedError, UnknowableError):
        return ()


def _undecided(graph: Graph, reason: str) -> Diagnostic:
    message = "whether every emitted token went through `sample` cannot be decided"
    label = Label(graph.steps[-1].emit.tokens.span, reason)
    return Diagnostic(
        codes.UNDECIDED, "error", message, (label,), ("use fewer or smaller `accept`s",)
    )


def _diagnostic(way: Way, source: Source) -> Diagnostic:
    kind = KINDS[way.code]
    names = [name.split(".", 1)[-1] if name != PROMPT else name for name in way.nodes]
    path = " -> ".join(f"`{name}`" for name in (*names, "emit"))
    labels = [Label(way.use.span, f"its way is {path}")]
    first = way.nodes[0]
    if first != PROMPT and not first.startswith("carry."):
        labels.append(Label(node_span(first, source), "it comes from here", primary=False))
    if way.ended:
        text = "it ends at an EOS, and leaves the rows behind masked or copies of it"
        labels[-1] = replace(labels[-1], text=text)
        help_text = "emit its rows from the first on, in order, or write `eos: ignored`"
        return Diagnostic(way.code, "error", kind.message, tuple(labels), (help_text,))
    return Diagnostic(way.code, "error", kind.message, tuple(labels), (kind.help,))
