"""What each row of a forward sees, is, and where: decided for every length of the cached prefix.

Facts of rows depend on the layout alone and not on how much was accepted, so they are found once a
forward and kept. Of few rows, all are looked at when somebody asks for one; of many, only that one,
because most are masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
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

MOST_TOGETHER = 2**14
"""Pairs of rows up to which one look at all of them takes less time than one at a single row."""


@dataclass(frozen=True)
class Sight:
    """What one row sees: the committed prefix (all, none, or neither for sure), and rows.

    `cached` are places among the speculative entries that were there before, `own` rows of the
    same forward. If it depends on the prompt's length which of the cached rows it sees, `prefix` is
    neither, and `cached` are those that it sees in any case.
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
        self._together = len(self.rows) * (len(self.rows) + speculative) <= MOST_TOGETHER

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
        if row not in self._seen and self._together:
            self._together = False
            with suppress(UndecidedError):  # of some row, which perhaps nobody asks for
                self._seen = dict(self._look(range(len(self.rows))))
        if row not in self._seen:
            self._seen |= self._look([row])
        return self._seen[row]

    def _look(self, rows: Sequence[int]) -> Iterator[tuple[int, Sight]]:
        """Yield what each of some rows sees."""
        query = {
            name: Range.exactly(values[list(rows), None]) for name, values in self._keys.items()
        }
        predicate = self.op.attention.predicate

        def asked(keys: Mapping[str, Range]) -> Range:
            return evaluate_range(predicate, pair_ranges(query, keys, self.kinds))

        def listed(answer: Any, keys: int) -> list[list[bool]]:
            found: list[list[bool]] = (np.broadcast_to(answer, (len(rows), keys)) != 0).tolist()
            return found

        own = asked({name: Range.exactly(values[None]) for name, values in self._keys.items()})
        seen = listed(own.low, len(self.rows))
        cached: list[list[bool]] = [[]] * len(rows)
        unsure = [False] * len(rows)
        if self.speculative:
            places = np.arange(-self.speculative, 0)[None]
            found = asked(prefix_ranges(Range.exactly(places)))
            cached, most = (listed(end, self.speculative) for end in (found.low, found.high))
            unsure = [one != other for one, other in zip(cached, most, strict=True)]
        whole = asked(prefix_ranges(Range(-LONGEST_CONTEXT, -1 - self.speculative)))
        low, high = (listed(end, 1) for end in (whole.low, whole.high))
        for number, row in enumerate(rows):
            sure = low[number] == high[number] and not unsure[number]
            prefix = low[number][0] if sure else None
            yield row, Sight(prefix, _chosen(cached[number]), _chosen(seen[number]))


def _chosen(flags: Sequence[bool]) -> tuple[int, ...]:
    return tuple(number for number, flag in enumerate(flags) if flag)


__all__ = ["Rowset", "Sight", "UndecidedError"]
