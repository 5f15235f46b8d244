"""Facts of rows that depend on the prompt's length, printed from what defines them.

Such rows have no list when a strategy is compiled. What a segment fixes is printed as runs, and a
predicate over rows as itself: nothing is concluded from examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nldc.codegen.compact import show_affine
from nldc.expr import And, Boolean, Compare, Expr, Not, Number, Or, Ref, references, show
from nldc.ir.course import ROW
from nldc.ir.facts import NO_KIND
from nldc.ir.layout import Layout, Segment
from nldc.ir.picks import in_segment
from nldc.ir.ranges import Range, UndecidedError, evaluate_range
from nldc.ir.size import Size

FAR = 2**30
"""More rows than any prompt has."""


@dataclass(frozen=True)
class Piece:
    """An expression over `row` and `index`, for the rows from `start` up to `stop`."""

    expr: Expr
    start: Size
    stop: Size

    @property
    def constant(self) -> bool | int | None:
        """Its value if that is the same for every row."""
        is_constant = isinstance(self.expr, Number | Boolean)
        return self.expr.value if is_constant else None  # type: ignore[union-attr, return-value]

    def show(self, length: str) -> str:
        """Print the list of its values; `length` names the prompt's length."""
        count = Size(self.stop.fixed - self.start.fixed, self.stop.prompts - self.start.prompts)
        if self.constant is not None:
            size = show_affine(count, length)
            return f"[{self.constant}] * ({size})" if " " in size else f"[{self.constant}] * {size}"
        rows = [show_affine(end, length) for end in (self.start, self.stop)]
        span = f"range({rows[1]})" if self.start == Size(0) else f"range({', '.join(rows)})"
        if isinstance(self.expr, Ref):
            return f"[*{span}]"
        used = {ref.root for ref in references(self.expr)}
        if used == set(ROW):
            return f"[{show(self.expr)} for row in {span} for index in (row,)]"
        return f"[{show(self.expr)} for {used.pop()} in {span}]"


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
    rows = Range(max(0, start.at(1)), FAR)
    try:
        found = evaluate_range(expr, lambda ref: rows if ref.dotted in ROW else None)
    except UndecidedError:
        return expr
    if found.low != found.high:
        return expr
    is_condition = isinstance(expr, Compare | Not | And | Or)
    return Boolean(bool(found.low)) if is_condition else Number(int(found.low))


def show_column(pieces: Sequence[Piece], length: str) -> str:
    """Print a column as a Python list; `length` names the prompt's length."""
    return " + ".join(piece.show(length) for piece in pieces)


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
