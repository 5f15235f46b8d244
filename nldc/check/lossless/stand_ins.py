"""Which rows, and which lengths of the prompt, stand for all; see docs/losslessness.md.

A truth about rows changes at lines: where sums of row numbers, lengths and constants meet. Rows
and lengths on both sides of every line are tried, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from nldc.check.lossless.lines import Lines, Sum, UntameError, between
from nldc.check.lossless.prefill_rows import PrefillRows
from nldc.expr import Ref

LONGEST = 2**18
"""Prompts that would have to be longer than this to decide a prefill are not tried."""
MOST_NEAR = 64
"""Rows from the start on that are all looked at where a truth depends on the sum of two."""
FULLY = 6
"""Up to this length every row of the prompt is looked at, so that short witnesses come first."""


class StandIns:
    """The rows and lengths to try for one forward.

    `plain` says that what rows see can be tried too: their positions follow their numbers.

    Raises:
        UntameError: none stand for all.
    """

    def __init__(self, rows: PrefillRows) -> None:
        self.rows = rows
        self.layout, self.op, self.fixed = rows.layout, rows.op, rows.fixed
        self.lines = Lines()
        position = self.lines.add_number(self.op.position, self._of_row)
        self.plain = not self.layout.dynamic or position.of == {"x": 1}
        self._add(position)

    def _of_row(self, ref: Ref) -> Sum:
        dynamic = self.layout.dynamic
        match ref.dotted:
            case "row" | "index" if dynamic:
                return between(0, 0, "x")
            case "group" if dynamic:
                return between(0, 0)
            case "row" | "index" | "group" | "masked":
                return between(0, self.fixed)
        return between(-1, len(self.rows.kinds))

    def _add(self, position: Sum) -> None:
        """Add where a truth may change."""
        lines = self.lines
        for expr in (self.op.append, self.op.predicts_next, self.op.adapter_rows):
            lines.add(expr, self._of_row)
        if not self.plain:
            return
        dynamic = self.layout.dynamic
        own = Sum({"y": Fraction(1)} if dynamic else {}, position.low, position.high)
        for key in (own,) if dynamic else (own, between(0, 0, "y")):

            def of_pair(ref: Ref, key: Sum = key) -> Sum:
                match ref.parts:
                    case ("q", "position"):
                        return position
                    case ("k", "position"):
                        return key
                    case ("k", "row" | "index") if dynamic:
                        return between(0, 0, "y")
                    case ("q" | "k", "row" | "index" | "group" as fact):
                        return self._of_row(Ref(fact))
                return between(-1, len(self.rows.kinds))

            lines.add(self.op.attention.predicate, of_pair)
        if lines.near > MOST_NEAR:
            raise UntameError

    def lengths(self) -> list[int]:
        """Return the prompt lengths to look at, the shortest first.

        Raises:
            UntameError: they would be too long, or too many.
        """
        margin, crossings = self.lines.margin + self.fixed, self.lines.crossings
        longest = 2 * (crossings[-1] + margin) + FULLY
        if longest > LONGEST:
            raise UntameError
        # The shortest prompts in which a line shows come first, for the sake of what is said.
        found = {*range(1, FULLY + 1), *(v + s for v in crossings for s in (0, 1, 2)), longest}
        if self.layout.dynamic and len(self.layout.segments) > 1:
            found |= set(_around(crossings, margin))
        return sorted(length for length in found if 0 < length <= longest)

    def queries(self, length: int, facts: Mapping[str, Any]) -> Any:
        """Return the rows to look at: those around lines, counted from where segments begin."""
        lines, rows = self.lines, len(facts["row"])
        if not self.layout.dynamic or length <= FULLY:
            return np.arange(rows)
        margin = lines.margin + self.fixed
        near = np.array([*_around(lines.crossings, margin), *range(2 * lines.near + 1)])
        begins = np.flatnonzero(np.diff(facts["segment"])) + 1
        starts = [0, rows - 1, *begins]
        found = np.unique(np.concatenate([start + s * near for start in starts for s in (1, -1)]))
        return found[(found >= 0) & (found < rows)]


def _around(values: Sequence[int], margin: int) -> Iterator[int]:
    for value in values:
        yield from range(max(0, value - margin), value + margin + 1)
