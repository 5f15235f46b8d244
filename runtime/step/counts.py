"""Counts: whole numbers a sequence, int64 [B], and how many rows a part has that one cuts off.

All of it is sums, comparisons and look-ups, so that a batch which notes its ops notes these too.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from nldc.runtime.rows.table import Table
from nldc.runtime.step import noted_ops
from nldc.runtime.step.contract import StepBatch
from nldc.runtime.step.noted import IDS, Number, notes_of


def number(batch: StepBatch, value: int) -> Tensor:
    """Return the same number for each sequence, int64 [B]."""
    if batch.notes is not None:
        return noted_ops.constant(batch.notes, IDS, value)
    return torch.full((batch.size,), value, dtype=torch.int64, device=batch.device)


def least(*counts: Tensor) -> Tensor:
    """Return the least of counts [B] in each sequence."""
    return reduce(lambda one, other: one + (other - one) * (other < one), counts)


def held(count: Tensor, *, low: int | None = None, high: int | None = None) -> Tensor:
    """Return a count [B] with what is below `low` or above `high` put there."""
    if low is not None:
        count = count + (low - count) * (count < low)
    if high is not None:
        count = count + (high - count) * (count > high)
    return count


def length_of(table: Table, count: Tensor, low: int) -> Tensor:
    """Return what a table [counts, 1], whose first line is for `low`, says of counts [B]."""
    if notes := notes_of(count):
        return noted_ops.chosen(notes, table, count, low).squeeze(1)
    return table.on(count.device)[count - low].squeeze(1)


def leading(
    scores: Tensor,
    *,
    at_least: float | Tensor | None = None,
    at_most: float | Tensor | None = None,
    low: int = 0,
) -> Tensor:
    """Return how many rows of scores [B, n], from the first on, are within a bound, int64 [B].

    One bound is given; it may be [B, 1], a number a sequence. The count is `low` at least, whatever
    the scores: NaN is within no bound.
    """
    if at_least is not None:
        flags = scores >= at_least
    else:
        assert at_most is not None
        flags = scores <= at_most
    if notes := notes_of(flags):
        width = flags.shape[1]
        sure, all_sure = notes.new(IDS, width), notes.new(IDS, width + 1)
        notes.copy(sure, noted_ops.own(notes, flags))
        notes.copy(all_sure, Number(1))
        found, _ = noted_ops.accepted(notes, sure, all_sure, 0, width)
    else:
        found = flags.to(torch.int64).cumprod(1).sum(1)
    return held(found, low=low) if low else found
