"""What a step did, read by the host once: tokens, counts, what stays of the cache, forwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nldc.runtime.step.batch import Batch
from nldc.runtime.step.host import Copy
from nldc.runtime.step.state import StepState
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


@dataclass(frozen=True)
class Form:
    """What the numbers of a record's line are: `width` tokens, and what follows them.

    `counts`: how many of the tokens count; `keeps`: how many rows stay; `nodes`: whose forwards.
    """

    width: int
    counts: bool
    keeps: bool
    nodes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Record:
    """The outcomes of a step on their way to the host, a line of `form` for each of the `slots`.

    `before` are the lengths in the cache that the step began with, and `after` those with all rows
    that it appended. `texts` are how long the sequences' texts were, where the device has them.
    """

    state: StepState
    slots: tuple[int, ...]
    before: Sequence[int]
    after: Sequence[int]
    values: Copy
    form: Form
    texts: list[int | None]

    @property
    def width(self) -> int:
        """How many tokens a line has."""
        return self.form.width

    def outcomes(self) -> list[Outcome]:
        """Return the outcome of each sequence, in order; waits until they are there."""
        return [self._outcome(number, line) for number, line in enumerate(self.values.read())]

    def _outcome(self, number: int, line: list[int]) -> Outcome:
        form, more = self.form, iter(line[self.form.width :])
        forwards = next(more)
        count = next(more) if form.counts else form.width
        keep = next(more) if form.keeps else None
        text = self.texts[number]
        self.state.learn(
            self.slots[number],
            self.after[number] if keep is None else self.before[number] + keep,
            None if text is None else text + count,
        )
        ran = {node: times for node, times in zip(form.nodes, more, strict=True) if times}
        return Outcome(line[:count], keep, forwards, ran)


def lines_of(batch: Batch, emit: Emit) -> tuple[Form, Tensor]:
    """Return what a step says of its sequences, int64 [B, n], and the form of that."""
    columns = [emit.tokens, batch.forwards().unsqueeze(1)]
    columns += [extra.unsqueeze(1) for extra in (emit.count, emit.keep) if extra is not None]
    by_node = batch.by_node or {}
    columns += [times.unsqueeze(1) for times in by_node.values()]
    form = Form(emit.tokens.shape[1], emit.count is not None, emit.keep is not None, tuple(by_node))
    return form, torch.cat(columns, 1)


def lengths_after(batch: Batch, emit: Emit) -> Tensor:
    """Return how many rows of the cache each sequence has behind a step, int64 [B]."""
    return batch.start if emit.keep is None else batch.begin + emit.keep


def commit(batch: Batch, emit: Emit) -> Record:
    """Let the device take over what a step did, and send it to the host in one copy.

    What stays of the cache on the host is up to whoever reads the outcomes.
    """
    form, values = lines_of(batch, emit)
    return Record(
        state=batch.state,
        slots=batch.slots,
        before=batch.committed,
        after=batch.lengths,
        values=Copy.of(values),
        form=form,
        texts=batch.state.after(batch.lineup, lengths_after(batch, emit), emit),
    )
