"""The live sequences of a prefill or a step, and what generated code may do with them.

A forward writes the keys and values of its rows behind each sequence's length; what a layout says
to append stays as speculative rows until the step ends. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import add

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.cache.prefix import BASE, names_of
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.errors import NldcRuntimeError
from nldc.runtime.model.attention import Attention
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.rows.plan import Plan, flags_of, in_order, pieces_of
from nldc.runtime.rows.table import Table
from nldc.runtime.step.choose import entropy, margin, probability, rules_of, sample
from nldc.runtime.step.member import Member, ends_of, thoughts_of
from nldc.runtime.step.processors import wants_tokens
from nldc.runtime.step.sight import Sight
from nldc.runtime.step.state import StepState
from nldc.runtime.step.values import (
    Choosing,
    Counting,
    Hidden,
    Logits,
    Scored,
)

AttentionOf = Callable[[Plan, KVCache, Places], Attention]
"""Makes the attention of one forward."""


@dataclass(frozen=True)
class Model:
    """What every batch of a decoder shares: backbone, adapters by name, attention, plans."""

    backbone: Backbone
    adapters: dict[str, Adapter]
    attention: AttentionOf
    plan: Callable[[Layout, Pattern], Plan]


class Batch:
    """Sequences that share a forward: `members`, in order.

    `mask_token_id` fills rows that are masked. `failed` holds, by the number of its sequence, the
    error of a processor that failed in this step: nothing that comes of the step for that sequence
    means anything, and nothing of the others is changed. `state` is what is known of the sequences
    from their earlier steps; without one, the batch is the first that sees them.
    """

    _prompt: tuple[Tensor, Sequence[int]] | None = None

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        members: Sequence[Member],
        state: StepState | None = None,
    ) -> None:
        self.model = model
        self.cache = cache
        self.members = tuple(members)
        self.device = device = model.backbone.device
        self.mask_token_id = model.backbone.config.mask_token_id
        self.size = len(self.members)
        self.slots = tuple(member.slot for member in self.members)
        self.failed: dict[int, NldcRuntimeError] = {}
        self._state = StepState(model.backbone.config, device) if state is None else state
        self._given = [member.embeddings for member in self.members]
        self._lengths = [cache.length(slot) for slot in self.slots]
        self._slot_index = torch.tensor(self.slots, dtype=torch.int64, device=device)
        self._start = torch.tensor(self._lengths, dtype=torch.int64, device=device)
        self._forwards = 0
        self._active_forwards: Tensor | None = None
        self._eos = ends_of([member.eos for member in self.members], device)
        self._rules = rules_of(self.members, self.mask_token_id, device)
        self._thoughts = thoughts_of(self.members, device)
        self._sees = any(
            wants_tokens(each) for member in self.members for each in member.sampling.processors
        )

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
        """Run the backbone over token ids [B, R] laid out by `layout`, seeing what `pattern` says.

        `adapter` names one of the decoder's adapters, used on the rows of `adapter_rows`: a flag
        for each, or a table of their places (None: all); a decoder that was loaded without it runs
        the base weights. `active`, bool [B], are the sequences for which the forward counts (None:
        all); with `hold`, the others keep the keys and values that they wrote last, for `append`,
        and get states of no use. `embeddings` [B, R, hidden] replace those of the tokens. Of the
        rows' states, those of the rows `states` are returned (None: all).

        A long text in order passes the backbone in pieces; its first rows are taken from the cache
        as far as it has them from another sequence and nobody asks for their states.
        """
        rows = layout.size
        model = self.model
        plan = model.plan(layout, pattern)
        before = self._places()
        if hold and active is not None:
            before = _behind(before, rows, active)
        used = None if adapter is None else model.adapters.get(adapter)
        wanted = range(rows) if states is None else range(rows)[states]
        first, there, names = 0, 0, []
        if in_order(layout, pattern):
            first = min(wanted, default=rows - 1)
            if self.size == 1 and not hold and embeddings is None:
                names = self._names(tokens, used, adapter_rows)
                there = self._adopt(names, first)
        self.cache.reserve(self.slots, [length + rows for length in before.lengths])
        model.backbone.rope.reserve(max(before.lengths) + plan.reach)
        places = before.start.unsqueeze(1) + plan.offset
        due, sight = self._seen(tokens, plan, before)
        parts = []
        for piece in pieces_of(layout, pattern, there):
            own = piece.rows
            if embeddings is None:
                inputs = self._embed(tokens[:, own])
            else:
                inputs = embeddings[:, own].to(model.backbone.dtype).flatten(0, 1)
            own_plan = plan if piece.whole else model.plan(piece.layout, pattern)
            computed = model.backbone.forward(
                inputs,
                places[:, own].reshape(-1),
                model.attention(own_plan, self.cache, _further(before, own.start)),
                used,
                self._adapter_rows(piece.chosen(adapter_rows), piece.layout.size) if used else None,
            )
            if own.stop > first:
                computed = computed.view(self.size, piece.layout.size, -1)
                parts.append(computed[:, max(0, first - own.start) :])
        if names:
            self.cache.enter(self.slots[0], names)
        if layout.append:
            self.append(layout.append - there)
        if counted:
            self._count(active)
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

    def _seen(
        self, tokens: Tensor, plan: Plan, places: Places
    ) -> tuple[Tensor | None, Sight | None]:
        """Return which rows must end thinking, and what all saw, where somebody asks for it."""
        if self._thoughts is None and not self._sees:
            return None, None
        ids = self._state.text.write(tokens, places)
        cached = self._state.text.prefix(places)
        due = None
        if self._thoughts is not None:
            due = self._state.budget.due(tokens, plan, places, cached, self._thoughts)
        if not self._sees:
            return due, None
        return due, Sight(plan, ids, places.start.unsqueeze(1) + plan.offset, cached)

    def prompt(self, tokens: Sequence[int], embeddings: Tensor | None = None) -> Tensor:
        """Return the ids of a prompt's rows, int64 [1, P]: its tokens.

        `embeddings` [P, hidden] stand in for those of the tokens. Their rows get ids of their own,
        from the end of the vocabulary on, so that a forward knows them in whatever layout, of a
        step as well. They equal no token, and are scored as what the caller knows them by.
        """
        self._given = [embeddings]
        if embeddings is None:
            rows = torch.tensor([list(tokens)], dtype=torch.int64, device=self.device)
            self._prompt = (rows, tokens)
            return rows
        first = self.model.backbone.config.vocab_size
        return torch.arange(first, first + len(tokens), device=self.device).unsqueeze(0)

    def _names(
        self, tokens: Tensor, adapter: Adapter | None, rows: Sequence[bool] | Table | None
    ) -> list[bytes]:
        """Return the names of the pages of a text at the beginning of its sequence, else none."""
        if self._lengths[0] or any(given is not None for given in self._given):
            return []
        known = self._prompt
        text = known[1] if known is not None and known[0] is tokens else tokens[0].tolist()
        marks = None
        if adapter is not None:
            mark = self.cache.prefixes.mark(adapter)
            flags = [True] * len(text) if rows is None else flags_of(rows, len(text))
            marks = [mark if flag else BASE for flag in flags]
        return names_of(text, marks)

    def _adopt(self, names: Sequence[bytes], most: int) -> int:
        """Let the sequence begin with pages of another, and return how many rows they are."""
        rows = self.cache.adopt(self.slots[0], names, most)
        self._lengths[0] += rows
        self._start = self._start + rows
        return rows

    def _embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings [B * R, hidden] of token ids [B, R]."""
        embed = self.model.backbone.embed
        tokens = tokens.clamp_min(0)  # in place of a draft that could not be chosen: any will do
        if all(given is None for given in self._given):
            return embed(tokens.reshape(-1))
        first = self.model.backbone.config.vocab_size
        is_given = tokens >= first
        states = embed(tokens.masked_fill(is_given, 0).reshape(-1)).view(*tokens.shape, -1)
        lines = [
            own
            if given is None
            else torch.where(mine.unsqueeze(1), given[(line - first).clamp(0, len(given) - 1)], own)
            for own, mine, line, given in zip(states, is_given, tokens, self._given, strict=True)
        ]
        return torch.cat(lines)

    def _known(self, tokens: Tensor) -> Tensor:
        """Return token ids [B, n] with those of a prompt's own rows as the text so far has them."""
        if all(given is None for given in self._given):
            return tokens
        first = self.model.backbone.config.vocab_size
        lines = []
        for line, history in zip(tokens, self.histories, strict=True):
            text = torch.tensor(history, dtype=torch.int64, device=self.device)
            at = (line - first).clamp(0, len(history) - 1)
            lines.append(torch.where(line >= first, text[at], line))
        return torch.stack(lines)

    def append(self, rows: int) -> None:
        """Let the first `rows` rows of the last forward stay in the cache, as speculative ones."""
        for number, slot in enumerate(self.slots):
            self.cache.append(slot, rows)
            self._lengths[number] += rows
        self._start = self._start + rows

    def _places(self) -> Places:
        return Places(self.slots, tuple(self._lengths), self._slot_index, self._start)

    def _adapter_rows(self, chosen: Sequence[bool] | Table | None, rows: int) -> Tensor | None:
        if chosen is None:
            return None
        if isinstance(chosen, Table):
            first = torch.arange(self.size, device=self.device).unsqueeze(1) * rows
            return (first + chosen.on(self.device)).view(-1)
        flags = list(chosen)
        if all(flags):
            return None
        numbers = [
            sequence * rows + row
            for sequence in range(self.size)
            for row, flag in enumerate(flags)
            if flag
        ]
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    def _count(self, active: Tensor | None) -> None:
        if active is None:
            self._forwards += 1
            return
        before = self._active_forwards
        now = active.to(torch.int64)
        self._active_forwards = now if before is None else before + now

    @property
    def histories(self) -> list[list[int]]:
        """The token ids of each sequence so far: its prompt, and what was emitted."""
        return [member.history() for member in self.members]

    def ends(self, tokens: Tensor, *, first: bool = False) -> Tensor:
        """Return which tokens [B, n] end their sequence, bool; `first`: by the first of its ids."""
        eos = self._eos[:, :1] if first else self._eos
        return (tokens.unsqueeze(2) == eos.unsqueeze(1)).any(2)

    def done(self, active: Tensor) -> bool:
        """Whether a loop may end, as none of `active`, bool [B], goes on: a round's one wait."""
        return not bool(active.any())

    def everyone(self) -> Tensor:
        """Return bool [B], all true: the sequences that a loop begins with."""
        return torch.ones(self.size, dtype=torch.bool, device=self.device)

    def forwards(self) -> Tensor:
        """Return how many counted forwards each sequence had a part in, int64 [B]."""
        total = torch.full((self.size,), self._forwards, device=self.device)
        return total if self._active_forwards is None else total + self._active_forwards

    def head(self, hidden: Hidden) -> Logits:
        """Return the logits of these rows."""
        count, rows, width = hidden.states.shape
        values = self.model.backbone.head(hidden.states.reshape(count * rows, width))
        return Logits(values.view(count, rows, -1), hidden.positions, hidden.due, hidden.sight)

    def sample(self, logits: Logits, mask_token: Choosing = "allowed") -> Tensor:
        """Return the chosen token of each row, int64 [B, n]; see `choose.sample`."""
        return sample(self._rules, self.failed, logits, mask_token)

    def probability(
        self,
        logits: Logits,
        tokens: Tensor,
        of: Scored = "raw",
        mask_token: Counting = "counted",
    ) -> Tensor:
        """Return the probability of tokens [B, n] in their rows; see `choose.probability`."""
        known = self._known(tokens)
        return probability(self._rules, self.failed, logits, known, of, mask_token)

    def entropy(
        self, logits: Logits, of: Scored = "raw", mask_token: Counting = "counted"
    ) -> Tensor:
        """Return the entropy of each row, [B, n]; see `choose.entropy`."""
        return entropy(self._rules, self.failed, logits, of, mask_token)

    def margin(
        self, logits: Logits, of: Scored = "raw", mask_token: Counting = "counted"
    ) -> Tensor:
        """Return how far the likeliest token is ahead, [B, n]; see `choose.margin`."""
        return margin(self._rules, self.failed, logits, of, mask_token)


def _behind(places: Places, rows: int, active: Tensor) -> Places:
    """Return the places, but for sequences that are not active those `rows` further on."""
    shifts = torch.where(active, 0, rows)
    lengths = tuple(map(add, places.lengths, shifts.tolist()))
    return Places(places.slots, lengths, places.slot_index, places.start + shifts)


def _further(places: Places, rows: int) -> Places:
    """Return the places so many rows further on."""
    if not rows:
        return places
    lengths = tuple(length + rows for length in places.lengths)
    return replace(places, lengths=lengths, start=places.start + rows)
