"""The live sequences of a prefill or a step, on a model and a cache.

A forward writes the keys and values of its rows behind each sequence's length; what a layout says
to append stays as speculative rows until the step ends. Nothing here waits for the device, but a
loop for what it runs on for (`done`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.model.attention import Attention
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.rows.plan import Plan
from nldc.runtime.rows.table import Table
from nldc.runtime.step.embedded import inputs_of, known_as
from nldc.runtime.step.history import History
from nldc.runtime.step.member import Member
from nldc.runtime.step.sequences import Sequences
from nldc.runtime.step.sight import Sight
from nldc.runtime.step.state import StepState
from nldc.runtime.step.thinking import due_rows
from nldc.runtime.step.values import Counting, Hidden, Logits, Scored, table_of

AttentionOf = Callable[[Plan, KVCache, Places], Attention]
"""Makes the attention of one forward."""


@dataclass(frozen=True)
class Model:
    """What every batch of a decoder shares: backbone, adapters by name, attention, plans."""

    backbone: Backbone
    adapters: dict[str, Adapter]
    attention: AttentionOf
    plan: Callable[[Layout, Pattern], Plan]


class Batch(Sequences):
    """Sequences that share a forward; see `contract.StepBatch` for what generated code may ask.

    `state` is what the device knows of them from their earlier steps; without one, the batch is the
    first that sees them.
    """

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        members: Sequence[Member],
        state: StepState | None = None,
    ) -> None:
        if state is None:
            state = StepState(model.backbone.config, model.backbone.device)
        super().__init__(state.lineup(members))
        self.model = model
        self.cache = cache
        self.state = state
        self.committed = [cache.length(slot) for slot in self.slots]
        self.lengths = list(self.committed)
        self.start = self.begin = state.starts(self.lineup, self.lengths)
        if self.lineup.embedded:
            state.keep_texts(self.lineup)
        state.refresh(self.lineup)

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
    ) -> Hidden:
        """See `StepBatch.forward`."""
        rows = layout.size
        model = self.model
        plan = model.plan(layout, pattern)
        before = self._places()
        if hold and active is not None:
            before = _behind(before, rows, active, self.who(active))
        self.cache.reserve(self.slots, [length + rows for length in before.lengths])
        model.backbone.rope.reserve(max(before.lengths) + plan.reach)
        places = before.start.unsqueeze(1) + plan.offset
        due, sight = self._seen(tokens, plan, before)
        if embeddings is None:
            given = [member.embeddings for member in self.members]
            inputs = inputs_of(model.backbone, tokens, given)
        else:
            inputs = embeddings.to(model.backbone.dtype).reshape(self.size * rows, -1)
        used = None if adapter is None else model.adapters.get(adapter)
        computed = model.backbone.forward(
            inputs,
            places.view(-1),
            model.attention(plan, self.cache, before),
            used,
            self._adapted(adapter_rows, rows) if used else None,
        )
        if layout.append:
            self.append(layout.append)
        if counted:
            self.count(active)
        hidden = Hidden(computed.view(self.size, rows, -1), places + plan.ahead, due, sight)
        return hidden if states is None else hidden.take(states)

    def append(self, rows: int) -> None:
        """Let the first `rows` rows of the last forward stay in the cache, as speculative ones."""
        for number, slot in enumerate(self.slots):
            self.cache.append(slot, rows)
            self.lengths[number] += rows
        self.start = self.start + rows

    def head(self, hidden: Hidden) -> Logits:
        """Return the logits of these rows."""
        count, rows, width = hidden.states.shape
        values = self.model.backbone.head(hidden.states.reshape(count * rows, width))
        return Logits(values.view(count, rows, -1), hidden.positions, hidden.due, hidden.sight)

    def prompt(self, tokens: Sequence[int]) -> Tensor:
        """Return the ids of the rows of the one member's prompt, int64 [1, P], see `embedded`."""
        (member,) = self.members
        if member.embeddings is None:
            return torch.tensor([list(tokens)], dtype=torch.int64, device=self.device)
        first = self.model.backbone.config.vocab_size
        return torch.arange(first, first + len(tokens), device=self.device).unsqueeze(0)

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


def _behind(places: Places, rows: int, active: Tensor, who: Sequence[bool]) -> Places:
    """Return the places, but for sequences that are not active those `rows` further on.

    `active` bool [B] is on the device what `who` is on the host.
    """
    shifted = zip(places.lengths, who, strict=True)
    return Places(
        places.slots,
        tuple(length if goes_on else length + rows for length, goes_on in shifted),
        places.slot_index,
        places.start + torch.where(active, 0, rows),
    )
