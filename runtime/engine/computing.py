"""Requests become a batch, generated code runs on it, and the host reads what it emits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nldc.runtime.engine.request import Request
from nldc.runtime.engine.seats import Seats
from nldc.runtime.errors import NldcRuntimeError
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.record import Outcome, commit
from nldc.runtime.step.values import Emit


@dataclass(frozen=True)
class Stepped:
    """What a step says: of each sequence, from the last on, as long as it is not written down.

    The error is that of a processor, and the outcome then means nothing. A step offered `width`
    tokens of each.
    """

    left: list[tuple[Request, Outcome, NldcRuntimeError | None]]
    width: int


def computed(
    model: Model,
    seats: Seats,
    live: Sequence[Request],
    call: Callable[[Batch], Emit],
    *,
    watch: bool,
) -> Stepped:
    """Run a prefill or a step of live requests, and wait for what it emits.

    `watch`: the forwards of each node are counted.
    """
    with torch.inference_mode():
        members = [seats.members[request.id] for request in live]
        batch = Batch(model, seats.cache, members, seats.state)
        if watch:
            batch.watch()
        emit = call(batch)
        record = commit(batch, emit)
        outcomes = record.outcomes()
    lines = [(request, outcomes[n], batch.failed.get(n)) for n, request in enumerate(live)]
    return Stepped(lines[::-1], record.width)
