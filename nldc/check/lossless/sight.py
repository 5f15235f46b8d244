"""What each row of a forward sees, is, and where: decided for every length of the cached prefix.

Facts of rows depend on the layout alone and not on how much was accepted, so they are found once a
forward and kept. A row is looked at only when somebody asks, because most are masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nldc.expr import Expr
from nldc.ir.facts import LONGEST_CONTEXT, facts_of, pair_ranges, prefix_ranges, row_ranges
from nldc.ir.layout import Row
from nldc.ir.ops import Forward
from nldc.ir.ranges import Range, UndecidedError, evaluate_range

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Sight:
    """What one row sees: the committed prefix (all, none, or neither for sure), and rows.

    `cached` are places among the speculative entries that were there before, `own` rows of the
    same forward.
    """

    prefix: bool | None
    cached: tuple[int, ...]
    own: tuple[int, ...]


class Rowset:
    """The rows of one forward over `speculative` entries, for one length of prompt.

    Raises:
        UndecidedError: a position, or which rows stay or are adapted, has no value.
    """

    def __init__(
        self, op: Forward, kinds: Sequence[str], prompt_length: int, speculative: int
    ) -> None:
        self.op = op
        self.kinds = tuple(kinds)
        self.rows: tuple[Row, ...] = op.layout.rows(prompt_length)
        self.speculative = speculative
        self._seen: dict[int, Sight] = {}

    @cached_property
    def _facts(self) -> Facts:
        held = [facts_of(row, self.kinds) for row in self.rows]
        return {name: np.array([int(facts[name]) for facts in held]) for name in held[0]}

    def _each(self, expr: Expr) -> Any:
        """Return the value of an expression over one row, for every row."""
        found = evaluate_range(expr, row_ranges(self._facts, self.kinds))
        return np.broadcast_to(found.low, (len(self.rows),))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The rows' positions, counted from the end of the cache."""
        return tuple(int(value) for value in self._each(self.op.position))

    @cached_property
    def appended(self) -> tuple[int, ...]:
        """The rows that stay in the cache, in order."""
        return tuple(int(row) for row in np.flatnonzero(self._each(self.op.append)))

    @cached_property
    def predicts_next(self) -> tuple[bool, ...]:
        """Whether each row predicts the token after its own."""
        return tuple(bool(value) for value in self._each(self.op.predicts_next))

    @cached_property
    def adapted(self) -> tuple[bool, ...]:
        """Whether each row is computed under an adapter."""
        if self.op.adapter is None:
            return (False,) * len(self.rows)
        return tuple(bool(value) for value in self._each(self.op.adapter_rows))

    @cached_property
    def _keys(self) -> Facts:
        return {**self._facts, "position": np.array(self.offsets)}

    def sight(self, row: int) -> Sight:
        """Return what a row sees.

        Raises:
            UndecidedError: the predicate may have no value.
        """
        if row not in self._seen:
            self._seen[row] = self._look(row)
        return self._seen[row]

    def _look(self, row: int) -> Sight:
        query = {name: Range.exactly(int(values[row])) for name, values in self._keys.items()}
        predicate = self.op.attention.predicate

        def asked(keys: Mapping[str, Range]) -> Range:
            return evaluate_range(predicate, pair_ranges(query, keys, self.kinds))

        own = asked({name: Range.exactly(values) for name, values in self._keys.items()})
        seen = np.broadcast_to(own.low, (len(self.rows),))
        cached: tuple[int, ...] = ()
        if self.speculative:
            places = np.arange(-self.speculative, 0)
            low = asked(prefix_ranges(Range.exactly(places))).low
            cached = tuple(
                int(i) for i in np.flatnonzero(np.broadcast_to(low, (self.speculative,)))
            )
        whole = asked(prefix_ranges(Range(-LONGEST_CONTEXT, -1 - self.speculative)))
        prefix = bool(whole.low) if bool(whole.low) == bool(whole.high) else None
        return Sight(prefix, cached, tuple(int(key) for key in np.flatnonzero(seen)))


__all__ = ["Rowset", "Sight", "UndecidedError"]
