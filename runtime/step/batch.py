"""The live sequences of a prefill or a step, on a model and a cache.

A forward writes the keys and values of its rows behind each sequence's length; what a layout says
to append stays as speculative rows until the step ends. Nothing here waits for the device, but a
loop for what it runs on for (`done`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import sub
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.cache.prefix import BASE, names_of
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.backend import Backend, through_layers
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.rows.plan import Plan, flags_of, in_order, pieces_of
from nldc.runtime.rows.table import Table
from nldc.runtime.step.choose import choice_of
from nldc.runtime.step.embedded import inputs_of, known_as
from nldc.runtime.step.history import History
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.places import behind_held, further
from nldc.runtime.step.sequences import Sequences
from nldc.runtime.step.sight import Sight
from nldc.runtime.step.state import StepState
from nldc.runtime.step.thinking import due_rows
from nldc.runtime.step.values import Choosing, Counting, Hidden, Logits, Scored, table_of


@dataclass(frozen=True)
class Model:
    """What every batch of a decoder shares: a backend, adapters by name, plans."""

    backend: Backend[Any]
    adapters: dict[str, Adapter]
    plan: Callable[[Layout, Pattern], Plan]

    @property
    def backbone(self) -> Backbone:
        """The weights, the config, and the rotary tables."""
        return self.backend.backbone


class Batch(Sequences):
    """Sequences that share a forward; see `contract.StepBatch` for what generated code may ask.

    `state` is what the device knows of them from their earlier steps; without one, the batch is the
    first that sees them.
    """

    _prompt: tuple[Tensor, Sequence[int]] | None = None

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        members: Sequence[Member],
        state: StepState | None = None,
    ) -> None:
        if state is None:
            state = StepState(model.backbone.config, model.backbone.device)
        lineup = state.lineup(members)
        lengths = [cache.length(slot) for slot in lineup.slots]
        self._begin(model, cache, state, lineup, lengths, state.starts(lineup, lengths))
        if all(self.committed):  # a step, of which the next one is thought to be like
            cache.prepare(self.slots, [length + state.reach for length in self.committed])
        if self.lineup.embedded:
            state.keep_texts(self.lineup)
        else:
            state.refresh(self.lineup)

    def _begin(
        self,
        model: Model,
        cache: KVCache,
        state: StepState,
        lineup: Lineup,
        lengths: list[int],
        start: Tensor,
    ) -> None:
        """Begin with sequences of these lengths in the cache, which are `start`, int64 [B]."""
        super().__init__(lineup)
        self.model = model
        self.cache = cache
        self.state = state
        self.committed = lengths
        self.lengths = list(lengths)
        self.start = self.begin = start

    def forward(
        self,
        tokens: Tensor,
        layout: Layout,
        pattern: Pattern,
        *,
        adapter: str | None = None,
        adapter_rows: Sequence[bool] | Table | None = None,
        counted: bool = True,
        active: Tensor | None = None,
        hold: bool = False,
        embeddings: Tensor | None = None,
        states: slice | None = None,
        node: str = "",
    ) -> Hidden:
        """See `StepBatch.forward`.

        A long text in order passes the backbone in pieces; its first rows are taken from the cache
        as far as it has them from another sequence and nobody asks for their states.
        """
        rows = layout.size
        model = self.model
        plan = model.plan(layout, pattern)
        before = self._places()
        if hold and active is not None:
            before = behind_held(before, rows, active, self.who(active))
        used = None if adapter is None else model.adapters.get(adapter)
        wanted = range(rows) if states is None else range(rows)[states]
        first, there, names = 0, 0, []
        if in_order(layout, pattern):
            first = min(wanted, default=rows - 1)
            if self.size == 1 and not hold and embeddings is None:
                names = self._names(tokens, used, adapter_rows)
                there = self._adopt(names, first) if names else 0
        self._make_room(before, rows)
        model.backbone.rope.reserve(max(before.lengths) + plan.reach)
        places = before.start.unsqueeze(1) + plan.offset
        due, sight = self._seen(tokens, plan, before)
        parts = []
        for piece in pieces_of(layout, pattern, there):
            own, size = piece.rows, piece.layout.size
            computed = through_layers(
                model.backend,
                self._inputs(tokens[:, own], None if embeddings is None else embeddings[:, own]),
                model.backend.rows(
                    plan if piece.whole else model.plan(piece.layout, pattern),
                    self.cache,
                    further(before, own.start),
                    places[:, own].reshape(-1),
                    used,
                    self._adapted(piece.chosen(adapter_rows), size) if used else None,
                ),
            )
            if own.stop > first:
                computed = computed.view(self.size, size, -1)
                parts.append(computed[:, max(0, first - own.start) :])
        if names:
            self.cache.enter(self.slots[0], names)
        if layout.append:
            self.append(layout.append - there)
        if counted:
            self.count(active)
        self.note(node, active)
        hidden = Hidden(
            torch.cat(parts, 1) if len(parts) > 1 else parts[0],
            (places + plan.ahead)[:, first:],
            None if due is None else due[:, first:],
            sight if sight is None or not first else sight.take(slice(first, None)),
        )
        if states is None:
            return hidden
        if not wanted:
            return hidden.take(slice(0, 0))
        return hidden.take(slice(wanted.start - first, wanted.stop - first, wanted.step))

    def _make_room(self, places: Places, rows: int) -> None:
        """Let the cache have room for so many rows at these places."""
        ends = [length + rows for length in places.lengths]
        self.cache.reserve(self.slots, ends)
        if all(self.committed):
            self.state.reach = max(self.state.reach, *map(sub, ends, self.committed))

    def append(self, rows: int) -> None:
        """Let the first `rows` rows of the last forward stay in the cache, as speculative ones."""
        for number, slot in enumerate(self.slots):
            self.cache.append(slot, rows)
            self.lengths[number] += rows
        self.start = self.start + rows

    def head(self, hidden: Hidden) -> Logits:
        """Return the logits of these rows."""
        count, rows, width = hidden.states.shape
        values = self.model.backend.head(hidden.states.reshape(count * rows, width))
        values = values.view(count, rows, values.shape[-1])  # of no rows as well
        return Logits(values, hidden.positions, hidden.due, hidden.sight)

    def head_choose(self, hidden: Hidden, mask_token: Choosing = "allowed") -> Tensor:
        """See `StepBatch.head_choose`; where nobody has to see logits, the backend has both."""
        choice = choice_of(self.lineup.rules, hidden, mask_token)
        if choice is None:
            return self.sample(self.head(hidden), mask_token)
        return self.model.backend.head_choose(hidden.states.flatten(0, 1), choice)

    def prompt(self, tokens: Sequence[int]) -> Tensor:
        """Return the ids of the rows of the one member's prompt, int64 [1, P], see `embedded`."""
        (member,) = self.members
        if member.embeddings is None:
            rows = torch.tensor([list(tokens)], dtype=torch.int64, device=self.device)
            self._prompt = (rows, tokens)
            return rows
        first = self.model.backbone.config.vocab_size
        return torch.arange(first, first + len(tokens), device=self.device).unsqueeze(0)

    def carried(self) -> dict[str, Tensor]:
        """Return what the sequences carry from the step before, int64 [B, n] each, as it is now."""
        return self.state.carry.read(self.slots, self.lineup.slot_index)

    def history(self) -> History:
        """See `StepBatch.history`."""
        return self.state.history(self.lineup)

    def probability(
        self,
        logits: Logits,
        tokens: Tensor,
        of: Scored = "raw",
        mask_token: Counting = "counted",
    ) -> Tensor:
        """Return the probability of tokens [B, n] in their rows; see `choose.probability`.

        Rows of a prompt's embeddings are scored as the tokens that the caller knows them by.
        """
        if self.lineup.embedded:
            vocabulary = self.model.backbone.config.vocab_size
            tokens = known_as(tokens, vocabulary, self.history())
        return super().probability(logits, tokens, of, mask_token)

    def _names(
        self, tokens: Tensor, adapter: Adapter | None, rows: Sequence[bool] | Table | None
    ) -> list[bytes]:
        """Return the names of the pages of a text at the beginning of its sequence, else none."""
        if self.lengths[0] or self.lineup.embedded:
            return []
        known = self._prompt
        text = known[1] if known is not None and known[0] is tokens else tokens[0].tolist()
        marks = None
        if adapter is not None:
            mark = self.cache.prefixes.mark(adapter)
            marks = [mark if flag else BASE for flag in flags_of(rows, len(text))]
        return names_of(text, marks)

    def _adopt(self, names: Sequence[bytes], most: int) -> int:
        """Let the sequence begin with pages of another, and return how many rows they are."""
        rows = self.cache.adopt(self.slots[0], names, most)
        self.lengths[0] += rows
        self.start = self.start + rows
        return rows

    def _inputs(self, tokens: Tensor, embeddings: Tensor | None) -> Tensor:
        """Return what goes into the backbone, [B * R, hidden], for ids [B, R]."""
        backbone = self.model.backbone
        if embeddings is not None:
            return embeddings.to(backbone.dtype).flatten(0, 1)
        return inputs_of(backbone, tokens, [member.embeddings for member in self.members])

    def _places(self) -> Places:
        return Places(self.slots, tuple(self.lengths), self.lineup.slot_index, self.start)

    def _seen(
        self, tokens: Tensor, plan: Plan, places: Places
    ) -> tuple[Tensor | None, Sight | None]:
        """Return which rows must end thinking, and what all saw, where somebody asks for it."""
        lineup, state = self.lineup, self.state
        if lineup.thoughts is None and not lineup.sees_tokens:
            return None, None
        ids = state.rows.write(tokens, places)
        cached = state.rows.prefix(places)
        due = None
        if lineup.thoughts is not None:
            due = due_rows(tokens, plan, places, cached, lineup.thoughts)
        if not lineup.sees_tokens:
            return due, None
        return due, Sight(plan, ids, places.start.unsqueeze(1) + plan.offset, cached)

    def _adapted(self, chosen: Sequence[bool] | Table | None, rows: int) -> Tensor | None:
        """Return the numbers of the adapter's rows among those of all sequences; None: all."""
        if chosen is not None and not isinstance(chosen, Table):
            flags = tuple(chosen)
            places = tuple(place for place, flag in enumerate(flags) if flag)
            chosen = None if len(places) == len(flags) else table_of(places)
        if chosen is None:
            return None
        first = torch.arange(self.size, device=self.device).unsqueeze(1) * rows
        return (first + chosen.on(self.device)).view(-1)
