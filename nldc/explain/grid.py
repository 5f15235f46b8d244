"""Who sees whom in a forward, row by row, and why the proof needs a row or lets it be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from nldc.check.lossless.certificate import Certificate, Fault
from nldc.check.lossless.needed import Need
from nldc.check.lossless.sight import Rowset, UndecidedError
from nldc.diagnostics import counted
from nldc.explain.model import Grid, Line, Sight, Wrong, in_words, ranges
from nldc.expr import ExprError, evaluate
from nldc.ir.facts import asks_prompt, facts_of, pair_lookup, prefix_facts
from nldc.ir.graph import Graph
from nldc.ir.layout import Layout, Row
from nldc.ir.ops import Forward, LayRows, Node
from nldc.ir.size import Size

MOST_ROWS = 2048
"""Rows of a forward that are looked at."""
MOST_NAMED = 24
"""Ranges of rows that a text names."""


def kinds_of(layout: Layout, *, laid: bool) -> tuple[tuple[str, str], ...]:
    """Return how many rows of each kind a layout has, in words that name the prompt."""
    found: dict[str, Size] = {}
    for segment in layout.segments:
        kind = _kind(segment.kind, masked=not segment.tokens, laid=laid)
        found[kind] = sum(segment.sizes, found.get(kind, Size(0)))
    return tuple((kind, str(size)) for kind, size in found.items())


def _kind(label: str | None, *, masked: bool, laid: bool) -> str:
    """Return what a row is called: its label, or what it holds as its forward begins.

    `laid`: its forward reads rows as they were laid.
    """
    if label is not None:
        return label
    return "token" if not masked else "mask" if laid else "filled"


def is_laid(graph: Graph, op: Forward) -> bool:
    """Whether a forward reads rows as they were laid, or as a loop has them in some round."""
    name = op.rows.node
    made = {node.name: node.op for node in graph.nodes}
    return isinstance(made.get(name), LayRows) or name not in made


@dataclass(frozen=True)
class _Seen:
    """The rows of a forward that are looked at, and what each sees."""

    rows: tuple[Row, ...]
    of: Rowset
    own: Any
    cached: tuple[tuple[Sight, ...], ...]
    columns: tuple[str, ...]
    laid: bool


def grid_of(
    graph: Graph,
    node: Node,
    certificate: Certificate,
    needed: Mapping[int, Need],
    faults: Sequence[Fault],
    length: int,
    most: int,
    *,
    merge: bool = False,
) -> Grid:
    """Return who sees whom in a forward, for a prompt of `length` tokens, in `most` lines.

    Where there are more rows, or with `merge`, neighbours that are alike share a line, but for
    those that `faults`, mistakes in this forward at this length, name: they are drawn, whatever is
    not. `needed` says by rows what the proof asks of them.
    """
    seen = _look(graph, node, length)
    named = {row for each in faults for row in (each.row, *each.keys) if row < len(seen.rows)}
    if len(seen.rows) <= most and not merge:
        parts = [(row, row) for row in range(len(seen.rows))]
    else:
        parts = list(_alike(seen, needed, named))
    behind = [part for part in parts[most:] if part[0] in named]
    drawn = [*parts[: max(most - len(behind), 1)], *(p for p in parts if p[0] in named)]
    drawn = sorted(dict.fromkeys(drawn))
    whys = [tuple(_why(seen, first, node, certificate, needed)) for first, _ in drawn]
    lines = tuple(
        _line(seen, part, drawn, why, needed, faults) for part, why in zip(drawn, whys, strict=True)
    )
    op = node.op
    assert isinstance(op, Forward)
    return Grid(seen.columns, lines, "; ".join(_notes(op.layout, length, drawn)))


def _notes(layout: Layout, length: int, drawn: Sequence[tuple[int, int]]) -> Iterator[str]:
    shown, rows = sum(last + 1 - first for first, last in drawn), layout.size.at(length)
    if layout.dynamic:
        yield f"for a prompt of {counted(length, 'token')}"
    if any(first != last for first, last in drawn):
        yield "rows that are alike share a line"
    if shown < rows and drawn and drawn[-1][1] >= shown:
        numbers = [row for first, last in drawn for row in range(first, last + 1)]
        yield f"{in_words(numbers)} of {rows} are drawn"
    elif shown < rows:
        yield f"the first {shown} of {rows} rows are drawn"


def _is_prefill(node: Node) -> bool:
    return node.name.startswith("prefill.")


def _look(graph: Graph, node: Node, length: int) -> _Seen:
    op = node.op
    assert isinstance(op, Forward)
    is_step = not _is_prefill(node)
    of = Rowset(op, graph.kinds, length if not is_step else 0, 0)
    rows = of.rows[:MOST_ROWS]
    columns: tuple[str, ...] = ("cache",) if is_step else ()
    if is_step and asks_prompt(op.attention.predicate):
        columns = ("prompt", "text")
    own = np.zeros((len(rows), len(rows)), dtype=bool)
    cached = []
    for row in rows:
        try:
            sight = of.sight(row.row)
            own[row.row, [key for key in sight.own if key < len(rows)]] = True
            prefix: Sight = "part" if sight.prefix is None else "all" if sight.prefix else "none"
        except UndecidedError:
            prefix = "part"
        known = tuple(_cached(graph, op, of, row, column, prefix) for column in columns)
        cached.append(known)
    return _Seen(rows, of, own, tuple(cached), columns, is_laid(graph, op))


def _cached(graph: Graph, op: Forward, of: Rowset, row: Row, column: str, prefix: Sight) -> Sight:
    """Return what a row sees of the cache; where the prompt is asked for, of one part of it."""
    if column == "cache":
        return prefix
    query = facts_of(row, graph.kinds, of.offsets[row.row])
    key = prefix_facts(prompt=column == "prompt")
    try:
        sees = evaluate(op.attention.predicate, pair_lookup(query, key, graph.kinds))
    except ExprError:
        return "part"
    return "all" if sees else "none"


def _alike(seen: _Seen, needed: Mapping[int, Need], named: Set[int]) -> Iterator[tuple[int, int]]:
    """Yield runs of rows that follow one another, see the same, and are seen by the same.

    Rows that are `named` are runs of their own.
    """
    first = 0
    for row in range(1, len(seen.rows) + 1):
        is_alone = row in named or row - 1 in named
        if row == len(seen.rows) or is_alone or not _same(seen, row - 1, row, needed):
            yield first, row - 1
            first = row


def _same(seen: _Seen, one: int, other: int, needed: Mapping[int, Need]) -> bool:
    return (
        seen.rows[one].kind == seen.rows[other].kind
        and seen.rows[one].masked == seen.rows[other].masked
        and seen.of.offsets[one] + 1 == seen.of.offsets[other]
        and seen.of.adapted[one] == seen.of.adapted[other]
        and (one in seen.of.appended) == (other in seen.of.appended)
        and seen.cached[one] == seen.cached[other]
        and needed.get(one) == needed.get(other)
        and bool((seen.own[one] == seen.own[other]).all())
        and bool((seen.own[:, one] == seen.own[:, other]).all())
    )


def _line(
    seen: _Seen,
    part: tuple[int, int],
    parts: Sequence[tuple[int, int]],
    why: tuple[str, ...],
    needed: Mapping[int, Need],
    faults: Sequence[Fault],
) -> Line:
    first, last = part
    own = [each for each in faults if each.row == first]
    keys = {key for each in own for key in each.keys}
    wrong = Wrong(
        any(each.cached for each in own),
        tuple(number for number, each in enumerate(parts) if each[0] in keys),
    )
    row = seen.rows[first]
    return Line(
        first=first,
        last=last,
        kind=_kind(row.kind, masked=row.masked, laid=seen.laid),
        masked=row.masked and seen.laid,
        position=seen.of.offsets[first],
        cached=seen.cached[first],
        sees=ranges([number for number, each in enumerate(parts) if seen.own[first, each[0]]]),
        adapted=seen.of.adapted[first],
        stays=first in seen.of.appended,
        needed=first in needed,
        why=why,
        wrong=wrong if own else None,
    )


def _why(
    seen: _Seen, row: int, node: Node, certificate: Certificate, needed: Mapping[int, Need]
) -> Iterator[str]:
    """Say what a row sees, and why the proof accepts it."""
    yield f"It sees {_sights(seen, row)}."
    if seen.of.adapted[row]:
        op = node.op
        assert isinstance(op, Forward)
        yield f"The adapter {op.adapter} is on it."
    if certificate.proved != "exact":
        yield from _against(node, certificate)
        return
    need = needed.get(row)
    if need is None:
        yield (
            "No token that comes out and no entry that stays rests on it: what it sees can make "
            "drafts better or worse, and changes no token."
        )
        return
    found = []
    if need.tokens:
        found.append(f"it chooses {in_words(need.tokens, 'token')} of those that come out")
    if need.stays:
        found.append("its key and value stay in the cache")
    where = "" if need.of == 1 else f", in {need.outcomes} of {need.of} outcomes"
    yield f"The proof rests on it: {', and '.join(found)}{where}."
    yield (
        f"It has to be AR's row at +{seen.of.offsets[row]}, and is: where it counts it holds AR's "
        "token and lies at its place, it sees the text before it and AR's row at each place in "
        "between, once each, and itself, and no adapter or changed logits touch these."
    )


def _sights(seen: _Seen, row: int) -> str:
    parts = []
    for column, sight in zip(seen.columns, seen.cached[row], strict=True):
        name = {"cache": "the cache", "prompt": "the prompt", "text": "the text behind it"}[column]
        if sight != "none":
            parts.append(f"all of {name}" if sight == "all" else f"a part of {name}")
    own = np.flatnonzero(seen.own[row]).tolist()
    if own:
        found = ranges(own)
        if len(found) > MOST_NAMED:
            parts.append(f"{counted(len(own), 'row')} of this forward")
        else:
            parts.append(f"{in_words(own)} of this forward")
    return " and ".join(parts) or "nothing"


def _against(node: Node, certificate: Certificate) -> Iterator[str]:
    own = [p for p in certificate.problems if p.node == node.name]
    yield from (f"{p.message} ({p.code}): {p.text}." for p in own)
    if not own:
        yield "Nothing is proved of this strategy, so nothing rests on this row."
