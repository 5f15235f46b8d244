"""What a step did, read by the host once: tokens, counts, what stays of the cache, forwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nldc.runtime.step import noted_ops
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.host import Copy
from nldc.runtime.step.noted import real
from nldc.runtime.step.state import StepState
from nldc.runtime.step.values import Emit


@dataclass(frozen=True)
class Outcome:
    """What a step did for one sequence.

    `tokens` are those that it emits, codes in place of some among them; the first `keep`
    speculative rows of its cache stay (None: all); it had a part in `forwards`, that count;
    `by_node` are all of them by their nodes, where somebody watches. It is `told` of those of the
    counts that it carries from here on which say which step it takes.
    """

    tokens: list[int]
    keep: int | None
    forwards: int
    by_node: Mapping[str, int] = field(default_factory=dict)
    told: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """What the numbers of a record's line are: `width` tokens, and what follows them.

    `counts`: how many of the tokens count; `keeps`: how many rows stay; `nodes`: whose forwards;
    `told`: the carried counts that the host is told of.
    """

    width: int
    counts: bool
    keeps: bool
    nodes: tuple[str, ...]
    told: tuple[str, ...] = ()


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
        told = {name: next(more) for name in form.told}
        ran = {node: times for node, times in zip(form.nodes, more, strict=True) if times}
        return Outcome(line[:count], keep, forwards, ran, told)


def lines_of(batch: Batch, emit: Emit) -> tuple[Form, Tensor]:
    """Return what a step says of its sequences, int64 [B, n], and the form of that."""
    columns = [emit.tokens, batch.forwards().unsqueeze(1)]
    columns += [extra.unsqueeze(1) for extra in (emit.count, emit.keep) if extra is not None]
    columns += [emit.carry[name] for name in emit.told]
    by_node = batch.by_node or {}
    columns += [times.unsqueeze(1) for times in by_node.values()]
    form = Form(
        width=emit.tokens.shape[1],
        counts=emit.count is not None,
        keeps=emit.keep is not None,
        nodes=tuple(by_node),
        told=emit.told,
    )
    if batch.notes is not None:
        return form, noted_ops.join(batch.notes, columns)
    return form, torch.cat(columns, 1)


def lengths_after(batch: Batch, emit: Emit) -> Tensor:
    """Return how many rows of the cache each sequence has behind a step, int64 [B]."""
    return batch.start if emit.keep is None else batch.begin + emit.keep


def let_stay(batch: Batch, emit: Emit) -> None:
    """Move the rows of the cache that stay of a path to where they are read from now on."""
    if emit.path is not None:
        assert emit.keep is not None
        batch.move(real(emit.path), real(emit.keep))


def commit(batch: Batch, emit: Emit) -> Record:
    """Let the device take over what a step did, and send it to the host in one copy.

    What stays of the cache on the host is up to whoever reads the outcomes.
    """
    form, values = lines_of(batch, emit)
    texts = batch.state.after(batch.lineup, lengths_after(batch, emit), emit, batch.notes)
    let_stay(batch, emit)
    return Record(
        state=batch.state,
        slots=batch.slots,
        before=batch.committed,
        after=batch.lengths,
        values=Copy.of(real(values)),
        form=form,
        texts=texts,
    )
