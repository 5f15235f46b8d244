"""A backbone that is a hash: a row's state depends on exactly what the row transitively saw.

Tokens, positions, who was seen, adapters: whatever AR's row does not depend on shows at once. Rows
that are not AR's own play the drafter, and agree with AR for as many places as a plan says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nldc.certify.text import (
    ADAPTED,
    DEEPER,
    END_THINK_ID,
    EOS_ID,
    FIRST,
    KEY,
    LAYERS,
    LOGIT,
    MASK_ID,
    PLACE,
    PLACE_AT,
    SECOND,
    TOKEN,
    VOCABULARY,
    DifferenceError,
    Rules,
    Text,
)
from nldc.runtime.cache.kv_cache import Places
from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, visible
from nldc.runtime.rows.plan import Plan
from nldc.runtime.rows.table import Table
from nldc.runtime.step.choose import Temperature
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.sequences import Sequences
from nldc.runtime.step.sight import TextTable
from nldc.runtime.step.thinking import ThinkingLimit, due_rows
from nldc.runtime.step.values import Choosing, Hidden, Logits, Rows

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder

CPU = torch.device("cpu")


def _scramble(x: Tensor) -> Tensor:
    """Mix int64 bits (splitmix64): shifts are logical, products wrap around."""
    x = (x >> 30).bitwise_and_(0x3FFFFFFFF).bitwise_xor_(x).mul_(FIRST)
    x = (x >> 27).bitwise_and_(0x1FFFFFFFFF).bitwise_xor_(x).mul_(SECOND)
    return (x >> 31).bitwise_and_(0x1FFFFFFFF).bitwise_xor_(x)


@dataclass(frozen=True)
class Room:
    """How many rows of the cache a decoder gets for one sequence, as its class variables say."""

    prompt: int
    token: int
    scratch: int

    @staticmethod
    def of(kind: type[Decoder]) -> Room:
        """Return the room of a decoder."""
        return Room(kind.PROMPT_ROWS, kind.TOKEN_ROWS, kind.SCRATCH_ROWS)

    def at(self, prompt: int, tokens: int) -> int:
        """Return the rows for a prompt of so many tokens, and so many that follow it."""
        return prompt * self.prompt + tokens * self.token + self.scratch

    def __str__(self) -> str:
        return f"PROMPT_ROWS is {self.prompt}, TOKEN_ROWS {self.token}, SCRATCH_ROWS {self.scratch}"


@dataclass(eq=False)
class _Sight:
    """What the rows of one layout see under one pattern; `prefix` is None if that is all of it.

    `prompt` is what they see of as long a prefix that is the prompt, if that is something else.
    """

    own: Tensor
    prefix: Tensor | None
    prompt: Tensor | None
    plan: Plan

    def of(self, length: int, prompt: int) -> Tensor:
        """Return what they see of so many rows, of which the first are the prompt's."""
        assert self.prefix is not None
        first = self.prefix.shape[1] - length
        if self.prompt is None:
            return self.prefix[:, first:]
        behind = first + min(prompt, length)
        return torch.cat((self.prompt[:, first:behind], self.prefix[:, behind:]), 1)


@dataclass(eq=False)
class World:
    """What the batches of one run share: room for cache entries, and what patterns show.

    `keys` int64 [slots, capacity, LAYERS] is what each cache entry adds to the rows that see it.
    `room` is how many rows a sequence may have; `adapters` says whether they are loaded.
    """

    keys: Tensor
    rules: Rules
    room: Room
    adapters: bool = True
    text: TextTable = field(default_factory=lambda: TextTable(VOCABULARY, MASK_ID, CPU))
    _sights: dict[tuple[int, int], tuple[Layout, Pattern, _Sight]] = field(default_factory=dict)

    @staticmethod
    def of(slots: int, capacity: int, rules: Rules, room: Room, adapters: bool) -> World:
        """Return a world with nothing in its cache."""
        keys = torch.zeros((slots, capacity, LAYERS), dtype=torch.int64)
        return World(keys, rules, room, adapters)

    def sight(self, layout: Layout, pattern: Pattern) -> _Sight:
        """Return what the rows see, each pair of layout and pattern evaluated once."""
        known = self._sights.get((id(layout), id(pattern)))
        if known is not None:
            return known[2]
        capacity = self.keys.shape[1]
        cached, own = visible(layout, pattern, capacity)
        told = None
        if pattern.asks_prompt:
            told = visible(layout, pattern, capacity, prompt=capacity)[0]
        sees_all = bool(cached.all()) and (told is None or bool(told.all()))
        if pattern.sees_prefix and not sees_all:
            raise DifferenceError(f"the pattern {pattern.name} does not see all of the prefix")
        plan = Plan.of(layout, pattern, CPU, torch.float32)
        prefix = None if sees_all else cached.to(torch.int64)
        sight = _Sight(
            own.to(torch.int64), prefix, None if told is None else told.to(torch.int64), plan
        )
        self._sights[id(layout), id(pattern)] = (layout, pattern, sight)
        return sight


class HashBatch(Sequences):
    """A batch for generated code whose backbone is the hash."""

    def __init__(self, live: Sequence[Text], world: World, slots: Sequence[int]) -> None:
        sampling = Sampling(
            world.rules.sampling.temperature,
            seed=world.rules.sampling.seed,
            processors=(self._forbid,) if world.rules.forbids(0) else (),
        )
        limit = world.rules.thinking
        members = [
            Member(
                slot,
                sequence.key,
                sampling,
                (EOS_ID,),
                prompt_length=len(sequence.prompt),
                thinking=None if limit is None else ThinkingLimit(limit, END_THINK_ID),
                thought=len(sequence.prompt) - 1,
                history=sequence.history,
                params=sequence.params,
            )
            for slot, sequence in zip(slots, live, strict=True)
        ]
        super().__init__(Lineup.of(members, MASK_ID, CPU))
        self.live = live
        self.world = world
        self._latest: list[tuple[Tensor, list[int]] | None] = [None] * self.size

    def _forbid(self, logits: Tensor, positions: Tensor) -> Tensor:
        """Forbid what the rules forbid, as a processor of the caller's would."""
        forbids = self.world.rules.forbids
        tokens = [[forbids(position) for position in row] for row in positions.tolist()]
        barred = torch.tensor(tokens, dtype=torch.int64)
        return logits.scatter(2, barred.view(*positions.shape, len(forbids(0))), -math.inf)

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
        """Compute the rows' states; they stand for hidden states of width 1."""
        del counted, embeddings, node
        if tuple(tokens.shape) != (self.size, layout.size):
            raise DifferenceError(
                f"tokens of shape {list(tokens.shape)} for {layout.size} rows of {self.size}"
            )
        sight = self.world.sight(layout, pattern)
        lengths = [len(sequence.cache) for sequence in self.live]
        held = [False] * self.size
        if hold and active is not None:
            held = (~active).tolist()
        for sequence, length, is_held in zip(self.live, lengths, held, strict=True):
            end = length + layout.size * (1 + is_held)
            if end > self.world.room.at(len(sequence.prompt), len(sequence.emitted) + 1):
                raise DifferenceError(
                    f"a forward of {layout.size} rows behind {length} has no room: the prompt has "
                    f"{len(sequence.prompt)} tokens, {len(sequence.emitted)} were emitted, and "
                    f"{self.world.room}"
                )
        adapted = torch.zeros(layout.size, dtype=torch.int64)
        if adapter is not None and self.world.adapters:
            if isinstance(adapter_rows, Table):
                adapted[adapter_rows.numbers] = 1
            else:
                adapted += 1 if adapter_rows is None else torch.tensor(adapter_rows)
        start = torch.tensor(lengths).unsqueeze(1)
        places = start + layout.offset
        computed = self._states(tokens, places, adapted, sight, lengths)
        for number, is_held in enumerate(held):
            if not is_held:
                self._latest[number] = (computed[number], places[number].tolist())
        due = None
        thoughts = self.lineup.thoughts
        if thoughts is not None:
            behind = start.squeeze(1) + torch.tensor(held).to(torch.int64) * layout.size
            where = Places(self.slots, tuple(behind.tolist()), self.lineup.slot_index, behind)
            self.world.text.write(tokens, where)
            cached = self.world.text.prefix(where)
            due = due_rows(tokens, sight.plan, where, cached, thoughts)
        if layout.append:
            self.append(layout.append)
        ahead = layout.predicts_next.to(torch.int64)
        hidden = Hidden(computed[..., -1:], places + ahead, due)
        return hidden if states is None else hidden.take(states)

    def _states(
        self,
        tokens: Tensor,
        places: Tensor,
        adapted: Tensor,
        sight: _Sight,
        lengths: Sequence[int],
    ) -> Tensor:
        """Return the states of rows [B, R] over the cache, int64 [B, R, LAYERS + 1]."""
        keys = self.lineup.rules.keys.unsqueeze(1)
        mixed = _scramble(tokens + TOKEN) + _scramble(places * PLACE + PLACE_AT)
        states = [_scramble(mixed + adapted * ADAPTED + keys)]
        cached = self.world.keys[list(self.slots)]
        there = torch.arange(cached.shape[1]) < torch.tensor(lengths).unsqueeze(1)
        cached = cached * there.unsqueeze(-1)
        for layer in range(LAYERS):
            own = _scramble(states[-1] + KEY)
            total = (sight.own * own.unsqueeze(1)).sum(-1)
            if sight.prefix is None:
                total += cached[:, :, layer].sum(1, keepdim=True)
            else:
                for number, (sequence, length) in enumerate(zip(self.live, lengths, strict=True)):
                    seen = sight.of(length, len(sequence.prompt))
                    total[number] += (seen * cached[number, :length, layer]).sum(1)
            deeper = _scramble(states[-1]) * 3 + _scramble(total) + adapted * DEEPER
            states.append(_scramble(deeper))
        return torch.stack(states, -1)

    def append(self, rows: int) -> None:
        """Let the first `rows` rows of the last forward stay."""
        for number, sequence in enumerate(self.live):
            latest = self._latest[number]
            if latest is None:
                raise DifferenceError("rows are appended before there were any")
            states, places = latest
            start, kept = len(sequence.cache), states[:rows]
            mixed = _scramble(kept[:, :LAYERS] + KEY)
            self.world.keys[self.slots[number], start : start + rows] = mixed
            sequence.cache += zip(map(tuple, kept.tolist()), places[:rows], strict=True)

    def head_choose(
        self,
        hidden: Hidden,
        mask_token: Choosing = "allowed",
        temperature: Temperature = None,
    ) -> Tensor:
        """Return the tokens that are chosen of the logits of `head`."""
        return self.sample(self.head(hidden), mask_token, temperature)

    def head_choose_scored(self, hidden: Hidden, *names: Any, **how: Any) -> tuple[Tensor, ...]:
        """Return the tokens of the logits of `head`, and their scores."""
        return self.sample_scored(self.head(hidden), *names, **how)

    def safety(self, logits: Logits, rows: Rows, sampler: str) -> Tensor:
        """Return any number of a row's that depends on nothing else, as a sampler might."""
        del rows, sampler
        sure = logits.values.softmax(-1).amax(-1)
        return (sure * 7919).frac() if self.world.adapters else sure

    def head(self, hidden: Hidden) -> Logits:
        """Return AR's logits for AR's rows, and guesses of AR's tokens for all others."""
        finals = hidden.states.squeeze(-1)
        ids = torch.arange(VOCABULARY, dtype=torch.int64) * LOGIT
        values = (_scramble(finals.unsqueeze(-1) + ids) & 0xFFFFF).double() / 0x20000
        sampled = self.world.rules.sampling.temperature > 0
        rows: list[tuple[int, int, int]] = []
        weights: list[float] = []
        second: list[tuple[int, int, int]] = []
        flat: list[tuple[int, int]] = []
        listed = zip(self.live, finals.tolist(), hidden.positions.tolist(), strict=True)
        for number, (sequence, states, places) in enumerate(listed):
            for row, (final, place) in enumerate(zip(states, places, strict=True)):
                if sequence.is_ar(final, place):
                    continue
                rows.append((number, row, sequence.guess(place)))
                kind = final & 15
                is_flat = kind == 1 if sampled else kind & 3 == 1
                weights.append(1.0 if is_flat else 40.0 if kind & 3 else 12.0)
                if weights[-1] == 40.0 and sequence.guess(place) != sequence.known(place):
                    second.append((number, row, sequence.known(place)))
                if is_flat:
                    flat.append((number, row))
        if flat:
            values[tuple(torch.tensor(flat).T)] /= 16
        if rows:
            where = torch.tensor(rows).T
            values[tuple(where)] += torch.tensor(weights, dtype=torch.float64)
        if second:  # what is wrong at first may be right among the likeliest
            values[tuple(torch.tensor(second).T)] += 9.0
        return Logits(values, hidden.positions, hidden.due)
