"""The graphs of an engine's steps: which there are, when they are made, and when they are replayed.

A step launches hundreds of kernels, each of which takes the host longer than it takes the device.
So what a step asks of the device is captured once and replayed: a graph a strategy, for so many
sequences of a kind, up to a number of keys (see `Key`), all of which are bounds, so that steps go
on in the same graph while sequences join, leave and grow, each sampled as it asks. Lengths, pages,
what the sequences carry and bring: all of that is read from the device's memory. Before a replay
the host writes there what it alone changed, as before every step.

So a step can also be replayed before the host has read what came of the one before: the device goes
on from what it has, and the host gives room for whatever that may be.

A graph is used only after it was seen to do in a step what that step then does without it. What
cannot be captured is launched as ever; `eager` counts why.
"""

from __future__ import annotations

import logging
import time
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.errors import GraphWarning
from nldc.runtime.graph.batch import FixedBatch, NeedsHostError, Seating
from nldc.runtime.graph.flight import Flight, Made, Moment, stream_of
from nldc.runtime.graph.key import FIRST_KEYS, Key, Kind, bucket
from nldc.runtime.graph.recorder import CudaRecorder, Cut, Recorder
from nldc.runtime.graph.work import NOTHING, Taking, Work, replay
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.host import Copy
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.noted import real
from nldc.runtime.step.record import Record, lengths_after, let_stay, lines_of
from nldc.runtime.step.state import Lines

LOG = logging.getLogger("nldc")
MOST = 64
"""Graphs that are kept; the one that was replayed least lately goes first."""
MOST_MET = 1024
"""Kinds of steps that are remembered as met, before all of them are forgotten."""


@dataclass(frozen=True, eq=False)
class _Graph:
    """What a replay does, the sequences that are in it, and what comes of it."""

    work: Work
    seating: Seating
    made: Made


@dataclass(frozen=True, eq=False)
class _Trial:
    """A graph that was replayed, and what came of it; the step is now done without it.

    `lines` are what it said, `state` what it left of the sequences, `rows` what it wrote into the
    cache.
    """

    key: Key
    graph: _Graph
    lineup: Lineup
    lines: list[list[int]]
    state: Lines
    rows: Tensor


class _SampledByHostError(Exception):
    """What a step computes is measured by how its sequences are sampled, as the host knows it."""


class StepGraphs:
    """Graphs of the steps on one model; `recorder` None: there are none, since `off`.

    `captures` and `replays` count; `eager` says how many steps were launched anew, and why.
    `overlapped` of the replays began before the tokens of the step before were read, and `wasted`
    counts the parts in them of sequences that had ended by then, or went on otherwise. Without
    `overlap`, which may be set between steps, there are none of these.
    """

    def __init__(self, model: Model, recorder: Recorder | None, off: str = "") -> None:
        self.off = off if recorder is None else ""
        self.captures = 0
        self.replays = 0
        self.overlap = True
        self.overlapped = 0
        self.wasted = 0
        self.eager: Counter[str] = Counter()
        self._model = model
        self._recorder = recorder
        self._graphs: dict[Key, _Graph] = {}
        self._met: set[Key] = set()
        self._refused: dict[Key | str, str] = {}
        self._where: tuple[int, ...] = ()
        self._by_groups: set[str] = set()
        self._kinds: weakref.WeakKeyDictionary[Lineup, dict[tuple[bool, bool], Kind | str]] = (
            weakref.WeakKeyDictionary()
        )
        self._trial: _Trial | None = None

    @staticmethod
    def on(
        model: Model, wanted: bool | None = None, recorder: Recorder | None = None
    ) -> StepGraphs:
        """Return the graphs of a model's steps, where they are `wanted` (None: where it can be).

        `recorder` None is CUDA's.
        """
        device = model.backbone.device
        if wanted is False:
            return StepGraphs(model, None, "graphs are turned off")
        if not model.backend.capturable:
            return StepGraphs(model, None, "the backend's attention asks the host for lengths")
        if recorder is None and device.type == "cuda":
            recorder = CudaRecorder(device)
        return StepGraphs(model, recorder, f"nothing captures steps on {device.type}")

    def forget(self) -> None:
        """Let go of all graphs, and of the memory that they hold."""
        self._graphs.clear()
        self._where = ()

    # What a step does

    def replayed(self, moment: Moment, carried: dict[str, Tensor]) -> Flight | None:
        """Begin to replay a step; None: it is to be done without a graph.

        `carried` gets what the sequences carry, [B, n] each, before the step changes it.
        """
        self._trial = None
        if self._recorder is None:
            self._eagerly(self.off)
            return None
        cache, state = moment.cache, moment.state
        lineup = state.lineup(moment.members)
        kind = self._kind(moment, lineup)
        why = self._refused.get(moment.strategy) or (kind if isinstance(kind, str) else None)
        lengths = [cache.length(slot) for slot in lineup.slots]
        if why is None and not all(lengths):
            why = "a sequence has nothing in the cache"
        if why is not None or isinstance(kind, str):
            self._eagerly(why or "")
            return None
        state.correct(lineup, lengths)
        cache.prepare(lineup.slots, [length + state.reach for length in lengths])
        state.refresh(lineup)
        key = self._key(moment, lineup, kind, lengths)
        if key in self._refused:
            self._eagerly(self._refused[key])
            return None
        self._settle(moment)
        graph = self._graphs.pop(key, None)
        if graph is None:
            if key in self._met:
                self._try(moment, lineup, key)
            elif len(self._met) >= MOST_MET:
                self._met.clear()
            self._met.add(key)
            self._eagerly("a step of its kind is seen for the first times")
            return None
        self._graphs[key] = graph  # the last one again
        return self._replayed(moment, lineup, graph, carried)

    def ahead(self, before: Flight, carried: dict[str, Tensor]) -> Flight | None:
        """Begin to replay the step behind one that is replayed whole and not read yet.

        None: no graph is surely large enough, or somebody's room is not; or several would wait for
        the loop of one that may have ended. `carried` is that of `replayed`.
        """
        moment, lineup = before.moment, before.lineup
        if before.has_loops and len(lineup.members) > 1:
            return None
        cache, state = moment.cache, moment.state
        kind = self._kind(moment, lineup)
        if isinstance(kind, str) or before.stream != stream_of(cache.device):
            return None
        lengths = [cache.length(slot) + before.made.rows for slot in lineup.slots]
        ends = [length + state.reach for length in lengths]
        key = self._key(moment, lineup, kind, lengths, before.made.form.width)
        if key not in self._graphs or not cache.may_hold(lineup.slots, ends):
            return None
        cache.prepare(lineup.slots, ends)
        self._settle(moment)
        graph = self._graphs.pop(key, None)
        if graph is None:
            return None
        self._graphs[key] = graph  # the last one again
        self.overlapped += 1
        return self._replayed(moment, lineup, graph, carried)

    def landed(self, flight: Flight, there: Sequence[bool]) -> Record:
        """Return what comes of a replayed step, for the sequences that are `there` still."""
        self.wasted += len(there) - sum(there)
        return flight.land(there)

    def learn(self, batch: Batch, record: Record) -> None:
        """Learn from a step that was done without a graph."""
        trial, self._trial = self._trial, None
        if trial is None:
            return
        if _agree(trial, batch, record):
            if len(self._graphs) >= MOST:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[trial.key] = trial.graph
        else:
            self._refuse(trial.key, "its graph did something else than the step")

    def _eagerly(self, why: str) -> None:
        self.eager[why] += 1

    def _replayed(
        self, moment: Moment, lineup: Lineup, graph: _Graph, carried: dict[str, Tensor]
    ) -> Flight:
        state = moment.state
        graph.seating.hold(lineup, state)
        carried.update(state.carry.read(lineup.slots, lineup.slot_index))
        self.replays += 1
        return Flight(moment, lineup, graph.work, graph.made)

    # Which graph

    def _kind(self, moment: Moment, lineup: Lineup) -> Kind | str:
        """Return the kind of the graph that a lineup goes into, or why it goes into none."""
        known = self._kinds.setdefault(lineup, {})
        routes, by_groups = moment.routes, moment.strategy in self._by_groups
        if (routes, by_groups) not in known:
            known[routes, by_groups] = _kind_of(lineup, routes=routes, by_groups=by_groups)
        return known[routes, by_groups]

    def _key(
        self, moment: Moment, lineup: Lineup, kind: Kind, lengths: Sequence[int], unread: int = 0
    ) -> Key:
        """Return the key of a step; no text is longer than the host says by more than `unread`."""
        state, texts = moment.state, 0
        if state.keeps_texts:
            longest = max(len(member.history()) for member in lineup.members) + unread
            texts = bucket(longest, FIRST_KEYS)
        return Key(
            strategy=moment.strategy,
            kind=kind,
            keys=bucket(max(lengths), FIRST_KEYS),
            texts=texts,
            carry=state.carry.form(lineup.slots[0]) or (),
            watched=moment.watched,
        )

    def _settle(self, moment: Moment) -> None:
        """Let go of graphs that read memory where nothing lies any more."""
        where = self._places(moment)
        if where != self._where:
            self._graphs.clear()
            self._where = where

    def _places(self, moment: Moment) -> tuple[int, ...]:
        rope = self._model.backbone.rope
        return (*moment.cache.addresses, *moment.state.addresses, rope.address)

    # How a graph is made

    def _try(self, moment: Moment, lineup: Lineup, key: Key) -> None:
        """Capture a step and replay it, and let everything be as it was."""
        state = moment.state
        saved = state.save(lineup)
        began = time.perf_counter()
        try:
            graph = self._captured(moment, lineup, key, saved)
            LOG.info(
                "captured a step of %s for %d sequences in %.2f s",
                moment.strategy, key.kind.size, time.perf_counter() - began,
            )  # fmt: skip
            state.restore(lineup, saved)
            replay(graph.work)
            values = graph.made.values[: len(lineup.members)]
            self._trial = _Trial(
                key,
                graph,
                lineup,
                Copy.of(values).read(),
                state.save(lineup),
                moment.cache.rows_behind(lineup.slots, state.reach),
            )
        except NeedsHostError as problem:
            self._refused[moment.strategy] = str(problem)
        except _SampledByHostError:
            self._by_groups.add(moment.strategy)
        except Exception as problem:
            self._refuse(key, f"{type(problem).__name__}: {problem}")
        finally:
            state.restore(lineup, saved)

    def _captured(self, moment: Moment, lineup: Lineup, key: Key, saved: Lines) -> _Graph:
        """Return the graph of a step, which may or may not have been done meanwhile.

        `saved` is what the device has of the sequences before it.
        """
        state, recorder = moment.state, self._recorder
        assert recorder is not None
        seating = Seating.of(key.kind.size, state)
        seating.hold(lineup, state)
        filled = seating.filled(lineup, state.mask_token_id)
        step = self._step(moment, filled, key)
        step(Taking(lambda: NOTHING))  # so that all is compiled, and has room
        state.restore(lineup, saved)
        self._settle(moment)

        def work(cut: Cut) -> tuple[Taking, Made]:
            taking = Taking(cut)
            return taking, step(taking)

        last, (taking, made) = recorder.record(work)
        self.captures += 1
        if self._places(moment) != self._where:
            raise RuntimeError("memory moved while the step was captured")
        return _Graph(taking.whole(last), seating, made)

    def _step(self, moment: Moment, filled: Lineup, key: Key) -> Callable[[Taking], Made]:
        """Return the work of a step, from the device's memory to the lines of a record."""

        def step(taking: Taking) -> Made:
            batch = FixedBatch(self._model, moment.cache, moment.state, filled, key, taking)
            emit = moment.step(batch, batch.carried())
            if batch.by_groups and not key.kind.groups:
                raise _SampledByHostError
            form, values = lines_of(batch, emit)
            lengths = lengths_after(batch, emit)
            moment.state.write(filled, lengths, emit, key.texts, batch.notes)
            let_stay(batch, emit)
            values = real(values)
            groups = [group.index for group in filled.rules.groups]
            return Made(form, values, batch.rows, [*batch.plans, *groups])

        return step

    def _refuse(self, key: Key, why: str) -> None:
        self._refused[key] = why
        warnings.warn(
            f"steps of `{key.strategy}` with {key.kind.size} sequences are not replayed: {why}",
            GraphWarning,
            stacklevel=2,
        )


def _agree(trial: _Trial, batch: Batch, record: Record) -> bool:
    """Whether a step that was done without a graph came to what the graph came to, bit for bit."""
    if trial.graph.made.form != record.form or trial.lines != record.values.read():
        return False
    was, now = trial.state, batch.state.save(trial.lineup)
    pairs = [
        (was.lengths, now.lengths),
        (was.counts, now.counts),
        (trial.rows, batch.cache.rows_behind(batch.slots, batch.state.reach)),
        *((each, now.carried[name]) for name, each in was.carried.items()),
    ]
    return all(torch.equal(one, other) for one, other in pairs)


def _kind_of(lineup: Lineup, *, routes: bool, by_groups: bool) -> Kind | str:
    """Return the kind of the graph that a lineup goes into, or why it goes into none.

    A step that goes by the number of sequences has a graph for each (`routes`), and one for which
    the host reads how sequences are sampled a graph for each way of it (`by_groups`).
    """
    if lineup.rules.processed:
        return "a processor looks at the logits"
    if lineup.embedded_in_steps:
        return "rows of a prompt that is given as embeddings may be computed again"
    count = len(lineup.members)
    return Kind.of(lineup, count if routes else bucket(count), by_groups=by_groups)
