"""What a step did, read by the host once: tokens, counts, what stays of the cache, forwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from nldc.runtime.step.batch import Batch
from nldc.runtime.step.host import Copy
from nldc.runtime.step.values import Emit


@dataclass(frozen=True)
class Outcome:
    """What a step did for one sequence.

    `tokens` are those that it emits, codes in place of some among them; the first `keep`
    speculative rows of its cache stay (None: all); it had a part in `forwards`, that count;
    `by_node` are all of them by their nodes, where somebody watches.
    """

    tokens: list[int]
    keep: int | None
    forwards: int
    by_node: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Record:
    """The outcomes of a step on their way to the host: lines of `width` tokens and what follows.

    `texts` are how long the sequences' texts were before it, where the device has them.
    """

    batch: Batch
    values: Copy
    width: int
    counts: bool
    keeps: bool
    texts: list[int | None]
    nodes: tuple[str, ...]

    def outcomes(self) -> list[Outcome]:
        """Return the outcome of each sequence, in order; waits until they are there."""
        return [self._outcome(number, line) for number, line in enumerate(self.values.read())]

    def _outcome(self, number: int, line: list[int]) -> Outcome:
        batch, more = self.batch, iter(line[self.width :])
        forwards = next(more)
        count = next(more) if self.counts else self.width
        keep = next(more) if self.keeps else None
        text = self.texts[number]
        batch.state.learn(
            batch.slots[number],
            batch.lengths[number] if keep is None else batch.committed[number] + keep,
            None if text is None else text + count,
        )
        ran = {node: times for node, times in zip(self.nodes, more, strict=True) if times}
        return Outcome(line[:count], keep, forwards, ran)


def commit(batch: Batch, emit: Emit) -> Record:
    """Let the device take over what a step did, and send it to the host in one copy.

    What stays of the cache on the host is up to whoever reads the outcomes.
    """
    columns = [emit.tokens, batch.forwards().unsqueeze(1)]
    columns += [extra.unsqueeze(1) for extra in (emit.count, emit.keep) if extra is not None]
    by_node = batch.by_node or {}
    columns += [times.unsqueeze(1) for times in by_node.values()]
    values = Copy.of(torch.cat(columns, 1))
    end = batch.start if emit.keep is None else batch.begin + emit.keep
    return Record(
        batch=batch,
        values=values,
        width=emit.tokens.shape[1],
        counts=emit.count is not None,
        keeps=emit.keep is not None,
        nodes=tuple(by_node),
        texts=batch.state.after(batch.lineup, end, emit),
    )
