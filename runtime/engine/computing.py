"""Requests become a batch, generated code runs on it, and the host reads what it emits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.engine.request import Request
from nldc.runtime.engine.seats import Seats
from nldc.runtime.engine.strategy import Strategy
from nldc.runtime.errors import NldcRuntimeError
from nldc.runtime.graph.step_graphs import Moment, StepGraphs
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.record import Outcome, Record, commit
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
        return _read(live, commit(batch, emit), batch.failed)


def stepped(
    graphs: StepGraphs,
    model: Model,
    seats: Seats,
    live: Sequence[Request],
    name: str,
    strategy: Strategy,
    carried: dict[str, Tensor],
    *,
    watch: bool,
) -> Stepped:
    """Do a step of live requests by the strategy `name`, and wait for what it emits.

    It is replayed where there is a graph of it. `carried` gets what the sequences carry, [B, n]
    each, before that is changed. `watch` is that of `computed`.
    """
    with torch.inference_mode():
        members = [seats.members[request.id] for request in live]
        cache, state = seats.cache, seats.state
        moment = Moment(name, strategy.step, cache, state, members, watch, strategy.routes)
        record = graphs.replayed(moment, carried)
        if record is not None:
            return _read(live, record, {})
        batch = Batch(model, cache, members, state)
        if watch:
            batch.watch()
        carried.update(batch.carried())
        record = commit(batch, strategy.step(batch, dict(carried)))
        graphs.learn(batch, record)
        return _read(live, record, batch.failed)


def _read(
    live: Sequence[Request], record: Record, failed: Mapping[int, NldcRuntimeError]
) -> Stepped:
    outcomes = record.outcomes()
    lines = [(request, outcomes[n], failed.get(n)) for n, request in enumerate(live)]
    return Stepped(lines[::-1], record.width)
