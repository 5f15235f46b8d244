"""The live sequences of a prefill or a step, on a model and a cache.

A forward writes the keys and values of its rows behind each sequence's length; what a layout says
to append stays as speculative rows until the step ends. Nothing here waits for the device, but a
loop for what it runs on for (`done`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import sub
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.cache.prefix import BASE, names_of
from nldc.runtime.checkpoint.adapter import Adapter
from nldc.runtime.model.backbone import Backbone
from nldc.runtime.model.backend import Backend, through_layers
from nldc.runtime.model.sampler import Sampler
from nldc.runtime.model.scores import ScoreName, Scores
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern
from nldc.runtime.rows.plan import Plan, flags_of, in_order, pieces_of
from nldc.runtime.rows.table import Table
from nldc.runtime.step.choose import Temperature, choice_of, ended, raw_rows
from nldc.runtime.step.embedded import inputs_of, known_as
from nldc.runtime.step.history import History
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.noted import Notes, real
from nldc.runtime.step.noted_ops import fixed
from nldc.runtime.step.params import Asked, Role
from nldc.runtime.step.places import behind_held, further
from nldc.runtime.step.sequences import Sequences
from nldc.runtime.step.sight import Sight
from nldc.runtime.step.state import StepState
from nldc.runtime.step.thinking import due_rows
from nldc.runtime.step.values import Choosing, Counting, Hidden, Logits, Rows, Scored


@dataclass(frozen=True)
class Model:
    """What every batch of a decoder shares: a backend, adapters and samplers by name, plans."""

    backend: Backend[Any]
    adapters: dict[str, Adapter]
    plan: Callable[[Layout, Pattern], Plan]
    samplers: Mapping[str, Sampler] = field(default_factory=dict)

    @property
    def backbone(self) -> Backbone:
        """The weights, the config, and the rotary tables."""
        return self.backend.backbone

    @property
    def parts(self) -> dict[str, Adapter | Sampler]:
        """All that was loaded beside the backbone, by the names that the strategy has for it."""
        return {**self.adapters, **self.samplers}


class Batch(Sequences):
    """Sequences that share a forward; see `contract.StepBatch` for what generated code may ask.

    `state` is what the device knows of them from their earlier steps; without one, the batch is the
    first that sees them. `by_groups`: something was computed by how the host knows them to be
    sampled.
    """

    by_groups = False
    _prompt: tuple[Tensor, Sequence[int]] | None = None

    def __init__(
        self,
        model: Model,
        cache: KVCache,
        members: Sequence[Member],
        state: StepState | None = None,
    ) -> None:
        if state is None:
            backbone = model.backbone
            state = StepState(backbone.config, backbone.device, backbone.dtype)
        lineup = state.lineup(members)
        lengths = [cache.length(slot) for slot in lineup.slots]
        state.correct(lineup, lengths)
        self._begin(model, cache, state, lineup, lengths)
        if all(self.committed):  # a step, of which the next one is thought to be like
            cache.prepare(self.slots, [length + state.reach for length in self.committed])
        if self.embedded:
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
    ) -> None:
        """Begin with sequences of these lengths in the cache, of which the device has its own.

        A step notes its ops if the backend does what is noted; a prefill, which is as long as its
        prompt, does not.
        """
        super().__init__(lineup)
        is_step = all(lengths)
        self.embedded = lineup.embedded_in_steps if is_step else lineup.embedded
        if model.backend.between is not None and is_step:
            self.notes = Notes(lineup.slot_index, model.backend.between)
        self.model = model
        self.cache = cache
        self.state = state
        self.committed = lengths
        self.lengths = list(lengths)
        self.start = self.begin = state.lengths(lineup, self.notes)

    def watch(self) -> None:
        """See `Sequences.watch`. Whoever watches has no ops noted: their forwards are counted."""
        super().watch()
        if self.notes is not None:
            self.notes = None
            self.start = self.begin = self.state.lengths(self.lineup)

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
        positions = places + plan.ahead
        before = replace(before, start=real(before.start))
        predicting = positions
        tokens, places, positions = real((tokens, places, positions))
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
            predicting[:, first:],
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

    def move(self, path: Tensor, keep: Tensor) -> None:
        """Let the first `keep` [B] of the speculative rows `path` [B, r] be the first of them."""
        before = Places(self.slots, tuple(self.committed), self.lineup.slot_index, real(self.begin))
        self.model.backend.move(self.cache, before, path, keep)
        if self.lineup.thoughts is not None or self.lineup.sees_tokens:
            self.state.rows.move(before, path, keep)

    def head(self, hidden: Hidden) -> Logits:
        """Return the logits of these rows."""
        count, rows, width = hidden.states.shape
        values = self.model.backend.head(hidden.states.reshape(count * rows, width))
        values = values.view(count, rows, values.shape[-1])  # of no rows as well
        return Logits(values, hidden.positions, hidden.due, hidden.sight)

    def sample(
        self,
        logits: Logits,
        mask_token: Choosing = "allowed",
        temperature: Temperature = None,
    ) -> Tensor:
        """See `StepBatch.sample`; where no processor has to see the logits, the backend chooses."""
        rules, temperature = self.lineup.rules, real(temperature)
        choice = choice_of(rules, replace(logits, due=None), mask_token, temperature)
        if choice is None:
            self.by_groups = True
            return super().sample(logits, mask_token, temperature)
        logits = ended(rules, logits)
        return self.seen(self.model.backend.choose(logits.values, choice))

    def head_choose(
        self,
        hidden: Hidden,
        mask_token: Choosing = "allowed",
        temperature: Temperature = None,
    ) -> Tensor:
        """See `StepBatch.head_choose`; where nobody has to see logits, the backend has both."""
        choice = choice_of(self.lineup.rules, hidden, mask_token, temperature)
        if choice is None:
            return self.sample(self.head(hidden), mask_token, temperature)
        return self.seen(self.model.backend.head_choose(hidden.states.flatten(0, 1), choice))

    def head_choose_scored(
        self,
        hidden: Hidden,
        *names: ScoreName,
        tokens: Tensor | None = None,
        mask_token: Choosing = "allowed",
        mask_token_scored: Counting = "counted",
        temperature: Temperature = None,
    ) -> tuple[Tensor, ...]:
        """See `StepBatch.head_choose_scored`."""

        def chosen(values: Tensor) -> Tensor:
            logits = Logits(values, hidden.positions, hidden.due, hidden.sight)
            return self.sample(logits, mask_token, temperature)

        rules = self.lineup.rules
        uncounted = rules.mask_token_id if mask_token_scored == "ignored" else None
        if tokens is not None:
            tokens = real(self._known(tokens))
        choice = choice_of(rules, hidden, mask_token, temperature) or chosen
        found, scores = self.model.backend.head_choose_scored(
            hidden.states, choice, Scores(names, tokens, uncounted)
        )
        return tuple(self.seen(each) for each in (found, *scores))

    def prompt(self, tokens: Sequence[int]) -> Tensor:
        """Return the ids of the rows of the one member's prompt, int64 [1, P], see `embedded`."""
        (member,) = self.members
        if member.embeddings is None:
            rows = torch.tensor([list(tokens)], dtype=torch.int64, device=self.device)
            self._prompt = (rows, tokens)
            return rows
        first = self.model.backbone.config.vocab_size
        own = range(first, first + len(tokens))
        rows = torch.arange(own.start, own.stop, device=self.device).unsqueeze(0)
        self._prompt = (rows, own)
        return rows

    def carried(self) -> dict[str, Tensor]:
        """Return what the sequences carry from the step before, int64 [B, n] each, as it is now."""
        return self.state.carry.read(self.slots, self.lineup.slot_index, self.notes)

    def param(self, asked: Asked, role: Role = "score") -> Tensor:
        """See `StepBatch.param`."""
        return self.state.params.read(asked, role, self.lineup.slot_index, self.notes)

    def history(self) -> History:
        """See `StepBatch.history`."""
        return self.state.history(self.lineup, notes=self.notes)

    def mix(self, logits: Sequence[Logits], weights: Sequence[float | Tensor]) -> Logits:
        """See `StepBatch.mix`."""
        values = self.model.backend.mix([each.values for each in logits], real(weights))
        return replace(logits[0], values=values)

    def candidates(self, logits: Logits, count: int) -> Tensor:
        """See `StepBatch.candidates`."""
        batch, rows, size = logits.values.shape
        found = self.model.backend.candidates(logits.values.reshape(-1, size), count)
        return self.seen(found.view(batch, rows * count))

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
        tokens = real(self._known(tokens))
        by_groups = partial(super().probability, logits, tokens, of, mask_token)
        return self._score("probability", logits, of, mask_token, by_groups, tokens)

    def entropy(
        self, logits: Logits, of: Scored = "raw", mask_token: Counting = "counted"
    ) -> Tensor:
        """See `StepBatch.entropy`."""
        by_groups = partial(super().entropy, logits, of, mask_token)
        return self._score("entropy", logits, of, mask_token, by_groups)

    def margin(
        self, logits: Logits, of: Scored = "raw", mask_token: Counting = "counted"
    ) -> Tensor:
        """See `StepBatch.margin`."""
        by_groups = partial(super().margin, logits, of, mask_token)
        return self._score("margin", logits, of, mask_token, by_groups)

    def _score(
        self,
        name: ScoreName,
        logits: Logits,
        of: Scored,
        mask_token: Counting,
        by_groups: Callable[[], Tensor],
        tokens: Tensor | None = None,
    ) -> Tensor:
        """Return a score of each row, [B, n]: as the backend has it where it is a raw one.

        Row by row, since a backend's bits may be its own, and a row has the same in any company.
        """
        raw = raw_rows(self.lineup.rules, logits, of)
        if raw is False:
            self.by_groups = True
            return by_groups()
        uncounted = self.lineup.rules.mask_token_id if mask_token == "ignored" else None
        (found,) = self.model.backend.measured(logits.values, Scores((name,), tokens, uncounted))
        if raw is not True:
            self.by_groups = True
            found = torch.where(raw, found, by_groups())
        return self.seen(found)

    def safety(self, logits: Logits, rows: Rows, sampler: str) -> Tensor:
        """See `StepBatch.safety`."""
        own = self.model.samplers.get(sampler)
        if own is None:
            return super().safety(logits, rows, sampler)
        tokens, masked = real(self._known(rows.tokens)), real(rows.masked)
        return self.seen(self.model.backend.safety(own, logits.values, tokens, masked))

    def _known(self, tokens: Tensor) -> Tensor:
        """Return tokens [B, n] as the caller knows them, those of a prompt's embeddings as well."""
        if not self.embedded:
            return tokens
        return known_as(real(tokens), self.model.backbone.config.vocab_size, self.history())

    def _names(
        self, tokens: Tensor, adapter: Adapter | None, rows: Sequence[bool] | Table | None
    ) -> list[bytes]:
        """Return the names of the pages of a text at the beginning of its sequence, else none."""
        own = self.members[0].known
        if self.lengths[0] or (self.embedded and own is None):
            return []
        known, contents = self._prompt, None
        text = known[1] if known is not None and known[0] is tokens else tokens[0].tolist()
        if own is not None:
            text, contents = own.named(text, self.model.backbone.config.vocab_size)
        marks = None
        if adapter is not None:
            mark = self.cache.prefixes.mark(adapter)
            marks = [mark if flag else BASE for flag in flags_of(rows, len(text))]
        return names_of(text, marks, contents)

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
        given = [member.embeddings if self.embedded else None for member in self.members]
        return inputs_of(backbone, tokens, given)

    def _places(self) -> Places:
        lineup = self.lineup
        return Places(
            self.slots,
            tuple(self.lengths),
            lineup.slot_index,
            self.start,
            lineup.prompts,
            lineup.begin,
        )

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
            chosen = None if len(places) == len(flags) else fixed(places)
        if chosen is None:
            return None
        first = torch.arange(self.size, device=self.device).unsqueeze(1) * rows
        return (first + chosen.on(self.device)).view(-1)
