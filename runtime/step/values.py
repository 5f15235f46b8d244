"""What the lines of a step hand one another: states, logits, rows of tokens, what is emitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from nldc.runtime.rows.table import Table
from nldc.runtime.step.noted import Noted, real
from nldc.runtime.step.noted_ops import fixed, taken
from nldc.runtime.step.sight import Sight

Choosing = Literal["allowed", "forbidden"]


Scored = Literal["raw", "filtered", "processed"]


Counting = Literal["counted", "ignored"]


RowIndex = slice | Sequence[int] | Tensor | Table
"""Static rows: a slice, row numbers, a table, or an int64 [n] tensor on the batch's device."""


def static_rows(index: RowIndex) -> slice | Table | Tensor:
    """Return static rows so that taking them uploads nothing: runs of numbers are slices."""
    if isinstance(index, slice | Table | Tensor):
        return index
    numbers = tuple(index)
    if numbers and numbers == tuple(range(numbers[0], numbers[0] + len(numbers))):
        return slice(numbers[0], numbers[0] + len(numbers))
    return fixed(numbers)


def take_rows(values: Tensor, index: RowIndex) -> Tensor:
    """Return the rows `index` of [B, R, ...]; runs of numbers are views."""
    rows = static_rows(index)
    if isinstance(rows, slice):
        return values[:, rows]
    numbers = rows.on(values.device) if isinstance(rows, Table) else rows
    if isinstance(values, Noted):
        return taken(values, numbers)
    return values.index_select(1, numbers)


def gather_rows(values: Tensor, index: Tensor) -> Tensor:
    """Return row `index[b, i]` of sequence b: [B, R, ...] by int64 [B, n] to [B, n, ...]."""
    if isinstance(values, Noted):
        return taken(values, index)
    index = real(index)
    places = index.view(*index.shape, *(1,) * (values.dim() - 2))
    return values.gather(1, places.expand(*index.shape, *values.shape[2:]))


def _places(positions: Tensor, index: RowIndex) -> Tensor:
    """Return the positions of rows, at once: whether somebody reads them is a request's matter, and
    what is noted is not.
    """
    is_run = isinstance(static_rows(index), slice)
    return take_rows(positions if is_run else real(positions), index)


def _sight_of(sight: Sight, index: RowIndex) -> Sight:
    rows = static_rows(index)
    if isinstance(rows, slice):
        return sight.take(rows)
    numbers = rows.on(sight.tokens.device) if isinstance(rows, Table) else rows
    return sight.gather(numbers.unsqueeze(0).expand(len(sight.tokens), -1))


@dataclass(frozen=True)
class Hidden:
    """States [B, n, hidden] before the head, and the positions [B, n] of what they predict.

    `due`, bool [B, n], says which predict the token that must end thinking; None: none does.
    `sight` is what they saw of the text, where a processor asks for it.
    """

    states: Tensor
    positions: Tensor
    due: Tensor | None = None
    sight: Sight | None = None

    def take(self, index: RowIndex) -> Hidden:
        """Return the same rows of every sequence."""
        due = None if self.due is None else take_rows(self.due, index)
        sight = None if self.sight is None else _sight_of(self.sight, index)
        return Hidden(take_rows(self.states, index), _places(self.positions, index), due, sight)

    def gather(self, index: Tensor) -> Hidden:
        """Return rows by number, int64 [B, n], each sequence its own."""
        due = None if self.due is None else gather_rows(self.due, index)
        sight = None if self.sight is None else self.sight.gather(index)
        places = gather_rows(self.positions, index)  # where they are noted, with what `index` is
        return Hidden(gather_rows(self.states, index), real(places), due, sight)


@dataclass(frozen=True)
class Logits:
    """Logits [B, n, vocabulary], and the positions [B, n] of the tokens they predict.

    `due` and `sight` are those of `Hidden`.
    """

    values: Tensor
    positions: Tensor
    due: Tensor | None = None
    sight: Sight | None = None

    def of(self, sequences: Tensor) -> Logits:
        """Return the rows of some sequences, by number, int64 [m]."""
        due = None if self.due is None else self.due[sequences]
        sight = None if self.sight is None else self.sight.of(sequences)
        return Logits(self.values[sequences], self.positions[sequences], due, sight)

    def take(self, index: RowIndex) -> Logits:
        """Return the same rows of every sequence."""
        due = None if self.due is None else take_rows(self.due, index)
        sight = None if self.sight is None else _sight_of(self.sight, index)
        return Logits(take_rows(self.values, index), _places(self.positions, index), due, sight)

    def gather(self, index: Tensor) -> Logits:
        """Return rows by number, int64 [B, n], each sequence its own."""
        due = None if self.due is None else gather_rows(self.due, index)
        sight = None if self.sight is None else self.sight.gather(index)
        places = gather_rows(self.positions, index)
        return Logits(gather_rows(self.values, index), real(places), due, sight)


@dataclass(frozen=True)
class Rows:
    """Token ids [B, n], and which rows are masked, bool [B, n].

    Masked is what the strategy says of a row, never a comparison of its id with the mask token's.
    """

    tokens: Tensor
    masked: Tensor

    @property
    def filled(self) -> Tensor:
        """The rows that are not masked, bool [B, n]."""
        return ~self.masked


@dataclass(frozen=True)
class Emit:
    """What a prefill or step yields, each with one row a sequence.

    `tokens` [B, n] of which the first `count` [B] count (None: all n; n may be 0); the first `keep`
    [B] speculative rows of the cache stay (None: all), or with a `path`, int64 [B, r], the first
    `keep` of the speculative rows with these numbers, in their order; `carry`, int64 [B, m] each,
    goes to the next step. The host reads those of the carried Counts, [B, 1], that it is `told`.
    """

    tokens: Tensor
    count: Tensor | None = None
    keep: Tensor | None = None
    carry: dict[str, Tensor] = field(default_factory=dict)
    told: tuple[str, ...] = ()
    path: Tensor | None = None
