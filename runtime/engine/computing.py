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
from nldc.runtime.graph.flight import Flight, Moment
from nldc.runtime.graph.step_graphs import StepGraphs
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


def begun(
    graphs: StepGraphs,
    model: Model,
    seats: Seats,
    live: Sequence[Request],
    name: str,
    strategy: Strategy,
    taken: str | None,
    carried: dict[str, Tensor],
    *,
    watch: bool,
) -> Flight | Stepped:
    """Begin a step of live requests by the strategy `name`, where there is a graph of it.

    Otherwise it is done, and waited for. Of a strategy in which each sequence has a step of its
    own, it is the step `taken`. `carried` gets what the sequences carry, [B, n] each, before that
    is changed. `watch` is that of `computed`.
    """
    with torch.inference_mode():
        members = [seats.members[request.id] for request in live]
        cache, state = seats.cache, seats.state
        step = strategy.step if taken is None else strategy.steps[taken]
        called = name if taken is None else f"{name}.{taken}"
        moment = Moment(called, step, cache, state, members, watch, strategy.routes)
        flight = graphs.replayed(moment, carried)
        if flight is not None:
            return flight
        batch = Batch(model, cache, members, state)
        if watch:
            batch.watch()
        carried.update(batch.carried())
        record = commit(batch, step(batch, dict(carried)))
        graphs.learn(batch, record)
        return _read(live, record, batch.failed)


def finish(flight: Flight) -> None:
    """Give the device what is left of a step; waits for the ends of its loops."""
    with torch.inference_mode():
        flight.finish()


def ahead(graphs: StepGraphs, flight: Flight, carried: dict[str, Tensor]) -> Flight | None:
    """Begin the step behind one that is finished and not read; None: that is to be read first."""
    with torch.inference_mode():
        return graphs.ahead(flight, carried)


def landed(graphs: StepGraphs, seats: Seats, live: Sequence[Request], flight: Flight) -> Stepped:
    """Wait for what a step emits that was begun, of the requests that are live still."""
    members = flight.moment.members
    pairs = zip(live, members, strict=True)
    there = [seats.members.get(request.id) is member for request, member in pairs]
    with torch.inference_mode():
        return _read(live, graphs.landed(flight, there), {})


def _read(
    live: Sequence[Request], record: Record, failed: Mapping[int, NldcRuntimeError]
) -> Stepped:
    outcomes = record.outcomes()
    lines = [(request, outcomes[n], failed.get(n)) for n, request in enumerate(live)]
    return Stepped(lines[::-1], record.width)
