"""What a step did, read by the host once: tokens, counts, what stays of the cache, forwards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.step.batch import Batch
from nldc.runtime.step.values import Emit


@dataclass(frozen=True)
class Outcome:
    """What a step did for one sequence.

    `tokens` are those that it emits, codes in place of some among them; the first `keep`
    speculative rows of its cache stay (None: all); it had a part in `forwards`.
    """

    tokens: list[int]
    keep: int | None
    forwards: int


@dataclass(frozen=True, eq=False)
class Record:
    """The outcomes of a step on their way to the host: `values` is int64 [B, columns]."""

    values: Tensor
    arrived: torch.Event | None
    width: int
    counts: bool
    keeps: bool

    def outcomes(self) -> list[Outcome]:
        """Return the outcome of each sequence, in order; waits until they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return [self._outcome(line) for line in self.values.tolist()]

    def _outcome(self, line: list[int]) -> Outcome:
        more = iter(line[self.width :])
        forwards = next(more)
        count = next(more) if self.counts else self.width
        return Outcome(line[:count], next(more) if self.keeps else None, forwards)


def commit(batch: Batch, emit: Emit) -> Record:
    """Send what a step did to the host: one copy, which no one waits for before it is read."""
    columns = [emit.tokens, batch.forwards().unsqueeze(1)]
    columns += [extra.unsqueeze(1) for extra in (emit.count, emit.keep) if extra is not None]
    values, arrived = torch.cat(columns, 1), None
    if batch.device.type == "cuda":
        there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        values = there.copy_(values, non_blocking=True)
        arrived = torch.Event(batch.device)
        arrived.record()
    return Record(
        values, arrived, emit.tokens.shape[1], emit.count is not None, emit.keep is not None
    )
