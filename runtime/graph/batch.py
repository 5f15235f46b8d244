"""The sequences of a step that is captured: all that differs between replays is on the device."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.graph.key import Key
from nldc.runtime.graph.work import Rounds, Taking, Work
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.rows.plan import Plan
from nldc.runtime.step.batch import Batch, Model
from nldc.runtime.step.history import History
from nldc.runtime.step.lineup import FACTS, Lineup
from nldc.runtime.step.noted import real
from nldc.runtime.step.state import StepState

NODES = 64
"""Nodes whose forwards are counted apart."""
MOST_APART = 64
"""Rounds that are captured one by one."""


class NeedsHostError(Exception):
    """A step asks the host, in its midst, for what differs from step to step."""


@dataclass(eq=False)
class Seating:
    """Which sequences a graph steps, in memory of its own: `slots` int64 [B], what they bring.

    `facts` and `eos` are those of `Lineup`. Where there are fewer than B sequences, the last one is
    there several times: it comes to the same each time, is written to the same places, and is read
    once. So a place without a sequence needs no memory, and has no state that could spoil others.
    """

    slots: Tensor
    facts: Tensor
    eos: Tensor
    _held: weakref.ref[Lineup] | None = None

    @staticmethod
    def of(size: int, state: StepState) -> Seating:
        """Return memory for so many sequences."""
        with torch.inference_mode(False):
            like: dict[str, Any] = {"dtype": torch.int64, "device": state.device}
            return Seating(
                torch.zeros(size, **like),
                torch.zeros((size, FACTS), **like),
                torch.zeros((size, state.ends), **like),
            )

    def hold(self, lineup: Lineup, state: StepState) -> None:
        """Let these be the sequences; nothing is done where they are."""
        if self._held is not None and self._held() is lineup:
            return
        self._held = None  # of an interrupt, nothing is believed
        count = len(lineup.members)
        self.slots[:count].copy_(lineup.slot_index)
        if count < len(self.slots):
            self.slots[count:].copy_(lineup.slot_index[-1:].expand(len(self.slots) - count))
        state.brought(self.slots, self.facts, self.eos)
        self._held = weakref.ref(lineup)

    def filled(self, lineup: Lineup, mask_token_id: int) -> Lineup:
        """Return the lineup that fills the graph, with these as what is on the device."""
        spare = len(self.slots) - len(lineup.members)
        members = [*lineup.members, *lineup.members[-1:] * spare]
        found = Lineup.known(members, self.slots, self.facts, self.eos, mask_token_id)
        if found.thoughts is None:
            return found
        # The lengths of prompts say which rows need not be looked at: of others it may be any.
        thoughts = replace(found.thoughts, prompts=(0,) * len(members))
        return replace(found, thoughts=thoughts)


@dataclass
class _Plans:
    """Plans as a model has them. They are held, since what was captured reads them."""

    model: Model
    held: list[Plan] = field(default_factory=list)

    def __call__(self, layout: Layout, pattern: Pattern) -> Plan:
        plan = self.model.plan(layout, pattern)
        self.held.append(plan)
        return plan


class FixedBatch(Batch):
    """A batch that is the same in each replay: the lengths that the host sees are upper bounds.

    Whatever is measured by a length on the host (grids, masks, room) is thus large enough for every
    replay, and whatever must be right is read from the device. Nothing of the cache's books is
    changed: `rows` counts what the step appends. `plans` are to be kept as long as the graph is.

    A loop has one round here, which is captured by itself, or as many as it may take where each is
    other work. Forwards are counted where every round counts on.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        state: StepState,
        lineup: Lineup,
        key: Key,
        taking: Taking,
    ) -> None:
        plans = _Plans(model)
        lengths = [key.keys] * len(lineup.members)
        held = replace(model, plan=plans)
        self._begin(held, cache, state, lineup, lengths)
        self.plans = plans.held
        self.rows = 0
        self._longest_text = key.texts
        self._taking = taking
        if key.watched or self.notes is None:
            rows = (1 + NODES, self.size)
            self._counted = torch.zeros(rows, dtype=torch.int64, device=self.device)
        if key.watched:
            self.watch()

    def _make_room(self, places: Places, rows: int) -> None:
        """Let the texts have room; the cache has it, for each sequence's own length."""
        if self.lineup.thoughts is not None:
            self.state.reserve_rows(max(places.lengths) + rows)

    def append(self, rows: int) -> None:
        """See `Batch`."""
        if self._rounds:
            raise NeedsHostError("a round of a loop leaves rows in the cache")
        self.rows += rows
        self.lengths = [length + rows for length in self.lengths]
        self.start = self.start + rows

    def history(self) -> History:
        """See `StepBatch.history`."""
        if not self.state.keeps_texts:
            raise NeedsHostError("the texts are not on the device yet")
        return self.state.history(self.lineup, self._longest_text, self.notes)

    def rounds(
        self, active: Tensor, most: int, *, least: int = 0, apart: bool = False
    ) -> Iterator[int]:
        """See `StepBatch.rounds`."""
        if apart and most > MOST_APART:
            raise NeedsHostError(f"more than {MOST_APART} rounds of a loop are each other work")
        each: list[Work] = []
        self.begin_rounds()
        self._taking.piece()
        for number in range(most if apart else 1):
            with self._taking.round(each):
                yield number
                self.settle()
        self._rounds -= 1
        self._taking.add(Rounds(real(active), most, least, tuple(each)))

    def who(self, active: Tensor) -> list[bool]:
        """Return that nobody goes on, who needs the most room: see `places.behind_held`."""
        return [False] * len(active)

    def count(self, active: Tensor | None) -> None:
        """See `Sequences.count`."""
        if self.notes is not None:
            super().count(active)
        else:
            self._counted[0].add_(1 if active is None else active)

    def forwards(self) -> Tensor:
        """See `Sequences.forwards`."""
        return self._counted[0] if self.notes is None else super().forwards()

    def note(self, node: str, active: Tensor | None) -> None:
        """See `Sequences.note`."""
        if self.by_node is None:
            return
        if node not in self.by_node:
            if len(self.by_node) == NODES:
                raise NeedsHostError(f"forwards of more than {NODES} nodes are counted")
            self.by_node[node] = self._counted[1 + len(self.by_node)]
        self.by_node[node].add_(1 if active is None else active)
