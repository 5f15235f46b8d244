"""The rows of a forward in the order in which they are computed.

Rows that stay in the cache are computed first, whatever the file's order, so that keeping them is
a change of length and no copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nldc.codegen.columns import at_most, column, leading
from nldc.codegen.program import Piece
from nldc.expr import Boolean, Expr, Ref, evaluate
from nldc.ir.facts import NO_KIND, facts_of, row_lookup
from nldc.ir.layout import Row
from nldc.ir.ops import Forward
from nldc.ir.size import Size


@dataclass(frozen=True)
class Ordered:
    """The rows of one forward; `kinds` are the labels of its graph.

    `branched`: of those that are appended a branch stays.
    """

    forward: Forward
    kinds: tuple[str, ...]
    branched: bool = False

    @property
    def dynamic(self) -> bool:
        """Whether the rows depend on the prompt's length."""
        return self.forward.layout.dynamic

    @property
    def size(self) -> Size:
        """The number of rows."""
        return self.forward.layout.size

    def order(self, prompt_length: int = 0) -> tuple[Row, ...]:
        """List the rows, those that are appended first."""
        rows = self.forward.layout.rows(prompt_length)
        return tuple(sorted(rows, key=lambda row: not self._holds(self.forward.append, row)))

    @property
    def kept_in_place(self) -> Size | None:
        """Return how many rows of a prompt stay if those are the first, each in its place."""
        taken = leading(self.column(self.forward.append))
        if taken is None or taken == Size(0):
            return taken
        first, *_ = self.column(self.forward.position)
        reaches = first.stop.prompts >= taken.prompts and first.stop.fixed >= taken.fixed
        return taken if first.expr == Ref("row") and reaches else None

    @property
    def in_file_order(self) -> bool:
        """Whether the rows are computed in the order in which the file lists them."""
        if self.dynamic:
            return leading(self.column(self.forward.append)) is not None
        return all(row.row == place for place, row in enumerate(self.order()))

    def places(self, rows: tuple[int, ...]) -> tuple[int, ...]:
        """Return where rows, numbered as in the file, stand in the order of computation."""
        place = {row.row: place for place, row in enumerate(self.order())}
        return tuple(place[row] for row in rows)

    def facts(self, prompt_length: int = 0) -> Mapping[str, list[int]]:
        """Return each fact of every row; `predicts_next` and `adapted` as 0 or 1."""
        order = self.order(prompt_length)
        return {
            "kind": [NO_KIND if r.kind is None else self.kinds.index(r.kind) for r in order],
            "group": [r.group for r in order],
            "index": [r.index for r in order],
            "row": [r.row for r in order],
            "offset": [self._number(self.forward.position, r) for r in order],
            "predicts_next": [int(self._holds(self.forward.predicts_next, r)) for r in order],
            "adapted": [int(self._holds(self.forward.adapter_rows, r)) for r in order],
        }

    def column(self, expr: Expr) -> tuple[Piece, ...]:
        """Return an expression over rows that depend on the prompt, in the file's order."""
        return column(self.forward.layout, self.kinds, expr)

    def appended(self) -> Size:
        """Return how many rows stay in the cache: for some prompts fewer, but never more."""
        if self.dynamic:
            return at_most(self.column(self.forward.append))
        return Size(sum(self._holds(self.forward.append, r) for r in self.forward.layout.rows()))

    def adapts_all(self) -> bool:
        """Whether the adapter, if there is one, applies to every row."""
        return self.forward.adapter_rows == Boolean(True)

    def _holds(self, predicate: Expr, row: Row) -> bool:
        return bool(evaluate(predicate, row_lookup(facts_of(row, self.kinds), self.kinds, {})))

    def _number(self, expr: Expr, row: Row) -> int:
        return int(evaluate(expr, row_lookup(facts_of(row, self.kinds), self.kinds, {})))
