"""Facts of rows that depend on the prompt's length, taken from what defines them.

Such rows have no list when a strategy is compiled. What a segment fixes is a constant for a run of
rows, and a predicate over rows stays itself: nothing is concluded from examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nldc.codegen.program import Piece
from nldc.expr import And, Boolean, Compare, Expr, Not, Number, Or, Ref
from nldc.ir.course import ROW
from nldc.ir.facts import LONGEST_CONTEXT, NO_KIND
from nldc.ir.layout import Layout, Segment
from nldc.ir.picks import in_segment
from nldc.ir.ranges import Range, UndecidedError, evaluate_range
from nldc.ir.size import Size


def column(layout: Layout, kinds: Sequence[str], expr: Expr) -> tuple[Piece, ...]:
    """Return the pieces of an expression over the facts of rows, of a layout of one group."""
    return _pieces(layout, lambda segment: in_segment(expr, segment, kinds))


def kind_column(layout: Layout, kinds: Sequence[str]) -> tuple[Piece, ...]:
    """Return the pieces of the rows' kinds."""

    def number(segment: Segment) -> Expr:
        return Number(NO_KIND if segment.kind is None else list(kinds).index(segment.kind))

    return _pieces(layout, number)


def _pieces(layout: Layout, fact: Callable[[Segment], Expr]) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    start = Size(0)
    for segment in layout.segments:
        (size,) = segment.sizes
        stop = start + size
        expr = _settled(fact(segment), start)
        if pieces and pieces[-1].expr == expr:
            pieces[-1] = Piece(expr, pieces[-1].start, stop)
        elif size != Size(0):
            pieces.append(Piece(expr, start, stop))
        start = stop
    return tuple(pieces)


def _settled(expr: Expr, start: Size) -> Expr:
    """Return a condition that all rows from `start` on agree on as a constant."""
    if isinstance(expr, Ref):
        return Ref("row")
    if isinstance(expr, Number | Boolean):
        return expr
    rows = Range(max(0, start.at(1)), LONGEST_CONTEXT)
    try:
        found = evaluate_range(expr, lambda ref: rows if ref.dotted in ROW else None)
    except UndecidedError:
        return expr
    if found.low != found.high:
        return expr
    is_condition = isinstance(expr, Compare | Not | And | Or)
    return Boolean(bool(found.low)) if is_condition else Number(int(found.low))


def leading(pieces: Sequence[Piece]) -> Size | None:
    """Return how many rows a condition takes if those are the first ones; None if it may differ."""
    taken = Size(0)
    for piece in pieces:
        if piece.constant is None or (piece.constant and piece.start != taken):
            return None
        taken = piece.stop if piece.constant else taken
    return taken


def at_most(pieces: Sequence[Piece]) -> Size:
    """Return the most rows that a condition may take."""
    return sum(
        (
            Size(p.stop.fixed - p.start.fixed, p.stop.prompts - p.start.prompts)
            for p in pieces
            if p.constant is None or p.constant
        ),
        Size(0),
    )
