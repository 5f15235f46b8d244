"""Rows that stay in the cache lie where they are kept: row n of those that a forward appends, at n.

An entry's place is its position, for every strategy: what reads the cache takes that for granted,
and so does cropping it. The proof of exactness says the same of the entries that stay; here it is
asked of those too that every outcome forgets. Where one branch stays, it is asked of each branch.
"""

from __future__ import annotations

from collections.abc import Iterator

from nldc.check.lossless import codes
from nldc.check.lossless.certificate import Certificate
from nldc.check.lossless.codes import KINDS
from nldc.check.lossless.places import node_span
from nldc.check.lossless.sight import Rowset
from nldc.diagnostics import Diagnostic, Label
from nldc.ir.branches import branches_kept, keeps_path, storing
from nldc.ir.graph import Graph, walk
from nldc.ir.ops import Forward
from nldc.ir.picks import PROBES
from nldc.ir.ranges import UndecidedError
from nldc.source import Source


def cache_order(
    graph: Graph, source: Source, certificate: Certificate | None
) -> Iterator[Diagnostic]:
    """Refuse a forward whose appended rows do not follow the cache in order.

    `certificate` is that of a graph which promises something.
    """
    if certificate is not None and certificate.problems:
        return  # what is wrong is said there
    yield from _uneven(graph, source)
    branched = dict(_branched(graph))
    for node in graph.nodes:
        if isinstance(node.op, Forward):
            branches = branched.get(node.name)
            if branches is not None:
                text = _branch_out_of_order(node.op, graph.kinds, branches)
            else:
                text = _out_of_order(node.op, graph.kinds)
            if text is not None:
                kind = KINDS[codes.CACHE_ORDER]
                labels = (
                    Label(node_span(node.name, source, "position"), text),
                    Label(node_span(node.name, source, "cache"), "kept here", primary=False),
                )
                yield Diagnostic(codes.CACHE_ORDER, "error", kind.message, labels, (kind.help,))


def _uneven(graph: Graph, source: Source) -> Iterator[Diagnostic]:
    """Refuse a prefill that keeps another share of a short prompt than of a long one."""
    for node in walk(graph.prefill.nodes):
        if not isinstance(node.op, Forward) or not node.op.layout.dynamic:
            continue
        try:
            kept = [len(Rowset(node.op, graph.kinds, n, 0).appended) for n in PROBES]
        except UndecidedError:
            continue
        rise = kept[1] - kept[0]
        if kept != [kept[0] + rise * (length - PROBES[0]) for length in PROBES]:
            text = f"of prompts of {PROBES[0]} and {PROBES[-1]} it keeps {kept[0]} and {kept[-1]}"
            kind = KINDS[codes.FRONTIER]
            label = Label(node_span(node.name, source, "cache"), text)
            yield Diagnostic(codes.FRONTIER, "error", kind.message, (label,), (kind.help,))


def _branched(graph: Graph) -> Iterator[tuple[str, tuple[tuple[int, ...], ...]]]:
    """Yield the forwards of which one branch stays, and the rows of each branch."""
    for step in graph.steps:
        if keeps_path(step.emit.keep):
            (node,) = storing(step.region.nodes)
            yield node.name, branches_kept(step)


def _branch_out_of_order(
    op: Forward, kinds: tuple[str, ...], branches: tuple[tuple[int, ...], ...]
) -> str | None:
    offsets = Rowset(op, kinds, 0, 0).offsets
    for number, rows in enumerate(branches):
        for place, row in enumerate(rows):
            if offsets[row] != place:
                lies = f"row {row} lies at offset {offsets[row]}"
                return f"{lies} and is row {place} of branch {number}, kept there"
    return None


def _out_of_order(op: Forward, kinds: tuple[str, ...]) -> str | None:
    for length in PROBES if op.layout.dynamic else (0,):
        rows = Rowset(op, kinds, length, 0)
        try:
            kept = [(row, rows.offsets[row]) for row in rows.appended]
        except UndecidedError:
            return None
        for place, (row, offset) in enumerate(kept):
            if offset != place:
                return f"row {row} lies at offset {offset} and is kept as {place}"
    return None
