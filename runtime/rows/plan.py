"""A layout and a pattern made ready for one device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, visible
from nldc.runtime.rows.table import Table

Chosen = Sequence[bool] | Table | None
"""Some rows of a forward: a flag for each, or a table of their places; None: all."""

QUERY_TILE = 256
"""Rows whose attention is computed at a time: bounds the memory that a long prompt takes."""
MOST_SEEN = 4096
"""Rows of which it is found out in which ranges they see one another; more may be looked at."""
PIECE = 1024
"""Rows of a long prompt that pass the whole backbone at a time."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A layout and a pattern made ready for one device.

    `layout` is a copy with the same tensors: plans are kept for as long as the layout they were
    asked for lives, and would keep that one alive for ever. `facts` is int32 [R, 5], for kernels.
    `own` is what is added to scores of the rows' own keys, [R, R] of 0 and -inf; None if there are
    too many rows to keep it. `blind`: some row may see nothing at all, and then attends to nothing.
    """

    layout: Layout
    pattern: Pattern
    offset: Tensor
    ahead: Tensor
    reach: int
    facts: Tensor
    own: Tensor | None
    blind: bool

    @staticmethod
    def of(layout: Layout, pattern: Pattern, device: torch.device, dtype: torch.dtype) -> Plan:
        """Evaluate the pattern over the rows and move the facts to `device`."""
        own: Tensor | None = None
        blind = layout.size > QUERY_TILE
        if layout.size <= QUERY_TILE:
            _, sees = visible(layout, pattern, 0)
            blind = not bool(sees.any(1).all())
            own = bias_of(sees, device, dtype)
        return Plan(
            layout=replace(layout),
            pattern=pattern,
            offset=layout.offset.to(device),
            ahead=layout.predicts_next.to(device, torch.int64),
            reach=int(layout.offset.max()) + 1,
            facts=torch.stack(
                (
                    layout.kind,
                    layout.group,
                    layout.index,
                    layout.row,
                    layout.offset,
                ),
                1,
            ).to(device, torch.int32),
            own=own,
            blind=blind,
        )

    @cached_property
    def seen(self) -> Tensor:
        """Where each row sees rows, for kernels: int32 [R, 3], beside `facts`.

        A row sees none from the first of these numbers to the second, and none from the third on.
        """
        layout, rows = self.layout, self.layout.size
        if in_order(layout, self.pattern):
            ends = torch.arange(1, rows + 1)
        elif rows > MOST_SEEN:
            ends = torch.full((rows,), rows)
        else:
            parts = (slice(first, first + QUERY_TILE) for first in range(0, rows, QUERY_TILE))
            ranges = [_ranges(visible(layout, self.pattern, 0, part)[1]) for part in parts]
            return torch.cat(ranges).to(self.facts.device, torch.int32)
        return ends.unsqueeze(1).repeat(1, 3).to(self.facts.device, torch.int32)


@dataclass(frozen=True, eq=False)
class Piece:
    """Some rows of a forward, and their layout behind the rows before them."""

    rows: slice
    layout: Layout
    whole: bool = False

    def chosen(self, rows: Chosen) -> Chosen:
        """Return which of the piece's rows are chosen, by what says it of the forward's."""
        if self.whole or rows is None:
            return rows
        return flags_of(rows, self.rows.stop)[self.rows]


def pieces_of(layout: Layout, pattern: Pattern, there: int = 0) -> tuple[Piece, ...]:
    """Return the pieces in which a forward is computed, but for its first rows that are `there`.

    A forward whose rows see more than what comes before them is one piece.
    """
    rows = layout.size
    if not in_order(layout, pattern) or (not there and rows <= PIECE):
        return (Piece(slice(0, rows), layout, whole=True),)
    starts = range(there, rows, PIECE)
    parts = (slice(start, min(start + PIECE, rows)) for start in starts)
    return tuple(Piece(part, _following(part.stop - part.start)) for part in parts)


def in_order(layout: Layout, pattern: Pattern) -> bool:
    """Whether each row depends on the rows before it and on nothing else."""
    return layout.sequential and pattern.looks_back


def flags_of(chosen: Chosen, rows: int) -> list[bool]:
    """Return whether each of the first `rows` rows is chosen."""
    if chosen is None:
        return [True] * rows
    if isinstance(chosen, Table):
        places = set(chosen.numbers.tolist())
        return [row in places for row in range(rows)]
    return list(chosen[:rows])


def _ranges(sees: Tensor) -> Tensor:
    """Return `Plan.seen` of some rows, of what they see of all, bool [n, R]: the widest gap."""
    places = torch.arange(sees.shape[1])
    last = torch.where(sees, places, -1).cummax(1).values
    before = torch.nn.functional.pad(last[:, :-1], (1, 0), value=-1)
    gap, at = torch.where(sees, places - before - 1, 0).max(1)
    ends = last[:, -1] + 1
    first = torch.where(gap > 0, at - gap, ends)
    beyond = torch.where(gap > 0, at, ends)
    return torch.stack((first, beyond, ends), 1)


@lru_cache(maxsize=32)
def _following(count: int) -> Layout:
    """Return the layout of so many rows of a text, the same one each time: it has a plan."""
    return Layout.causal(count)


def bias_of(sees: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores: 0 where bool `sees` is true, else -inf."""
    bias = torch.zeros(sees.shape, dtype=dtype, device=device)
    return bias.masked_fill_(~sees.to(device), -math.inf)
