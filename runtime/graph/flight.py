"""A step that was replayed and is not read yet: the device has it, and the host's books do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache
from nldc.runtime.graph.work import Rounds, Work, played
from nldc.runtime.step.batch import Batch
from nldc.runtime.step.host import Copy
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.record import Form, Record
from nldc.runtime.step.state import StepState
from nldc.runtime.step.values import Emit

Step = Callable[[Batch, dict[str, Tensor]], Emit]


@dataclass(frozen=True)
class Moment:
    """A step that is to be done: of `members`, by a strategy.

    `watched`: forwards are counted by node; `routes`: the step goes by the number of sequences.
    """

    strategy: str
    step: Step
    cache: KVCache
    state: StepState
    members: Sequence[Member]
    watched: bool = False
    routes: bool = False


@dataclass(frozen=True, eq=False)
class Made:
    """What a step came to when it was captured: lines of a record, and rows that it appends.

    `held` is memory that the graph reads and nobody else may keep.
    """

    form: Form
    values: Tensor
    rows: int
    held: list[Any]


class Flight:
    """A step of a lineup in a graph, which is begun when this is made.

    As far as the host has nothing to read in its midst, all of it is: the rest is replayed by
    `finish`. The lines are on their way to the host in memory of their own, so that the graph may
    be replayed again before they are read.
    """

    def __init__(self, moment: Moment, lineup: Lineup, work: Work, made: Made) -> None:
        self.moment = moment
        self.lineup = lineup
        self.made = made
        self._held = work  # a graph that is given up is to run to its end
        self.has_loops = any(isinstance(part, Rounds) for part in work)
        self.stream = stream_of(moment.cache.device)
        self._values: Copy | None = None
        self._rest: Iterator[None] = played(work)
        self._go_on()

    def finish(self) -> None:
        """Replay what is left; the host waits for the device once a round of a loop."""
        while self._values is None:
            self._go_on()

    def _go_on(self) -> None:
        """Replay up to where the host has to read, or to the end."""
        for _ in self._rest:
            return
        self._values = Copy.apart(self.made.values[: len(self.lineup.members)])

    def land(self, there: Sequence[bool]) -> Record:
        """Let the step stand in the books, and return what comes of it.

        Nothing is written of sequences that are not `there` any more.
        """
        self.finish()
        assert self._values is not None
        cache, state, slots = self.moment.cache, self.moment.state, self.lineup.slots
        lengths = [
            cache.length(slot) if here else 0 for slot, here in zip(slots, there, strict=True)
        ]
        texts = state.unlearn(slots)
        for slot, here in zip(slots, there, strict=True):
            if here:
                cache.append(slot, self.made.rows)
        return Record(
            state=state,
            slots=slots,
            before=lengths,
            after=[length + self.made.rows for length in lengths],
            values=self._values,
            form=self.made.form,
            texts=texts,
        )


def stream_of(device: torch.device) -> int:
    """Return which queue of a device this thread gives its work to now."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
