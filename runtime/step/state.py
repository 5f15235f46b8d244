"""What the device knows of a decoder's sequences between steps: a line of each table for each slot.

Batches are made for a step and forgotten; this stays for as long as the cache that it goes with.
Between two steps the host writes what it alone knows: a sequence that joins, and a length or a text
that it changed, or what it carries when it is handed over. For that, it remembers what the device's
lines hold, and writes those that differ.

All of this is written before a step, so that no step uploads anything of its sequences, its first
one included. What a strategy fixes, tables of row numbers and which rows see which, is put on the
device where the strategy first asks for it: within the first prefill and the first step that any
sequence of a loaded model takes with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.cache.capacity import grown, slots_for
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.step import noted_ops
from nldc.runtime.step.carry import Carry
from nldc.runtime.step.history import History
from nldc.runtime.step.lineup import FACTS, NO_END, Lineup, ends_of, facts_of
from nldc.runtime.step.member import Member
from nldc.runtime.step.noted import Notes, as_tensor, real
from nldc.runtime.step.params import Asked, Columns, Role
from nldc.runtime.step.sight import TextTable
from nldc.runtime.step.values import Emit

LINEUPS = 16
"""How many lineups are remembered; one for each strategy whose sequences step together will do."""


@dataclass(frozen=True, eq=False)
class Lines:
    """What a step changes of sequences: `lengths` and `counts`, int64 [B], and what they carry."""

    lengths: Tensor
    counts: Tensor
    carried: Mapping[str, Tensor]


class StepState:
    """The tables of a decoder's sequences; whoever owns the cache owns them.

    `rows` holds the token ids behind the cache's rows, for processors that see tokens and for
    thinking budgets, `carry` what goes from a step to the next, `params` what sequences bring of
    their strategies' params, to be compared with scores of a model of this `dtype`. `reach` is the
    most rows that a step writes behind a sequence's length, as far as that is known.
    """

    def __init__(
        self, config: ModelConfig, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self.device = device
        self.mask_token_id = config.mask_token_id
        self.reach = 0
        self.rows = TextTable(config.vocab_size, config.mask_token_id, device)
        self.carry = Carry(device)
        self.params = Columns(torch.promote_types(dtype, torch.float32), device)
        self._facts = self._table(0, FACTS)
        self._eos = self._table(0, 1)
        self._lengths = self._table(0)
        self._texts = self._table(0, 0)
        self._counts = self._table(0)
        self._keeps_texts = False
        self._members: list[Member | None] = []
        self._known_lengths: list[int | None] = []
        self._known_counts: list[int | None] = []
        self._lineups: dict[tuple[int, ...], Lineup] = {}

    def _table(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int64, device=self.device)

    def expect(self, reach: int, *, texts: bool, asked: Iterable[tuple[Asked, Role]] = ()) -> None:
        """Be ready for steps that write up to `reach` rows, ask for `texts` or do not, and for what
        is `asked` of params.
        """
        self.params.expect(asked)
        self.reach = max(self.reach, reach)
        self._keeps_texts |= texts

    # Sequences that join, stay together, and leave

    def lineup(self, members: Sequence[Member]) -> Lineup:
        """Return the lineup of members, of which those that are new join."""
        slots = tuple(member.slot for member in members)
        known = self._lineups.get(slots)
        if known is not None and known.members == tuple(members):
            return known
        for member in members:
            self._join(member)
        index = torch.tensor(slots, dtype=torch.int64, device=self.device)
        made = Lineup.known(
            members, index, self._facts[index], self._eos[index], self.mask_token_id
        )
        if len(self._lineups) >= LINEUPS:
            del self._lineups[next(iter(self._lineups))]
        self._lineups[slots] = made
        return made

    def leave(self, slot: int) -> None:
        """Forget the sequence of a slot."""
        self.carry.forget(slot)
        self._part(slot)

    def undo(self, slot: int, carried: Mapping[str, Tensor]) -> None:
        """Forget what a step that came to nothing may have written of a slot.

        It carries again what it did before, int64 [1, n] each; all else is written anew, as the
        host knows it, when it steps again.
        """
        self._part(slot)
        if carried:
            index = torch.tensor([slot], dtype=torch.int64, device=self.device)
            self.carry.write([slot], index, carried)

    def _part(self, slot: int) -> None:
        """Let the sequence of a slot be one that has yet to join."""
        if slot < len(self._members):
            self._members[slot] = None
            self._lineups = {
                slots: known for slots, known in self._lineups.items() if slot not in slots
            }

    def _join(self, member: Member) -> None:
        slot = member.slot
        known = self._members[slot] if slot < len(self._members) else None
        if known is member:
            return
        self._reserve(slot + 1, len(member.eos))
        if known is not None:
            self.leave(slot)
        self._members[slot] = member
        self._known_lengths[slot] = self._known_counts[slot] = None
        self.params.put(slot, member.params)
        self._write(self._facts[slot], facts_of(member))
        self._write(self._eos[slot], ends_of(member, self._eos.shape[1]))

    def _write(self, line: Tensor, values: Sequence[int]) -> None:
        line.copy_(torch.tensor(values, dtype=torch.int64))

    def _reserve(self, slots: int, ends: int) -> None:
        have = len(self._members)
        slots = slots_for(slots, have)
        ends = max(ends, self._eos.shape[1])
        self._facts = grown(self._facts, slots, FACTS)
        self._eos = grown(self._eos, slots, ends, NO_END)
        self._lengths = grown(self._lengths, slots)
        self._counts = grown(self._counts, slots)
        self._texts = grown(self._texts, slots, self._texts.shape[1])
        self.carry.reserve(slots)
        self.params.reserve(slots)
        self._known_lengths += [None] * (slots - have)
        self._known_counts += [None] * (slots - have)
        self._members += [None] * (slots - have)  # the last: it says how many there are

    # Lengths

    def starts(self, lineup: Lineup, lengths: Sequence[int]) -> Tensor:
        """Return the sequences' lengths in the cache, int64 [B], which the host says are `lengths`.

        They are on the device already, but for those that the host changed between the steps.
        """
        self.correct(lineup, lengths)
        return self.lengths(lineup)

    def correct(self, lineup: Lineup, lengths: Sequence[int]) -> None:
        """Write the lengths that the device does not have as the host says they are."""
        for slot, length in zip(lineup.slots, lengths, strict=True):
            if self._known_lengths[slot] != length:
                self._lengths[slot] = length
                self._known_lengths[slot] = length

    def lengths(self, lineup: Lineup, notes: Notes | None = None) -> Tensor:
        """Return the sequences' lengths in the cache as the device has them, int64 [B].

        With `notes`, these are noted, and how long the texts are too, if they are kept.
        """
        if notes is not None:
            if self._keeps_texts:
                notes.counts = noted_ops.read(notes, self._counts)
            return noted_ops.read(notes, self._lengths)
        return self._lengths.index_select(0, lineup.slot_index)

    def after(
        self, lineup: Lineup, lengths: Tensor, emit: Emit, notes: Notes | None = None
    ) -> list[int | None]:
        """Take over what a step did: the lengths, int64 [B], what it emits and what it carries on.

        The host does not know lengths and texts until it is told what was read, by `learn`. Returns
        how long the texts were before, for those that are kept.
        """
        before = self.unlearn(lineup.slots)
        longest = max(0 if length is None else length for length in before)
        self.write(lineup, lengths, emit, longest, notes)
        return before

    def write(
        self,
        lineup: Lineup,
        lengths: Tensor,
        emit: Emit,
        longest: int,
        notes: Notes | None = None,
    ) -> None:
        """Do what `after` does on the device, or note it; no text is longer than `longest`."""
        if notes is None:
            self._lengths.index_copy_(0, lineup.slot_index, lengths)
        else:
            noted_ops.keep(notes, self._lengths, lengths)
        self.carry.write(lineup.slots, lineup.slot_index, emit.carry, notes)
        if self._keeps_texts:
            self._extend(lineup, longest, emit.tokens, emit.count, notes)

    def unlearn(self, slots: Sequence[int]) -> list[int | None]:
        """Know lengths and texts no more until they are learned; return how long the texts were."""
        before = [self._known_counts[slot] for slot in slots]
        for slot in slots:
            self._known_lengths[slot] = self._known_counts[slot] = None
        return before

    def learn(self, slot: int, length: int, count: int | None) -> None:
        """Learn what was read of a slot after a step: its length, and that of its text if kept."""
        self._known_lengths[slot] = length
        self._known_counts[slot] = count

    def knows(self, slot: int, length: int, count: int) -> bool:
        """Whether a slot is known to have this length, and a text of `count` if texts are kept."""
        if self._known_lengths[slot] != length:
            return False
        return not self._keeps_texts or self._known_counts[slot] == count

    # What a step may be given again

    def save(self, lineup: Lineup) -> Lines:
        """Return what a step will change of sequences, as it is now."""
        return Lines(
            self.lengths(lineup),
            self._counts.index_select(0, lineup.slot_index),
            self.carry.read(lineup.slots, lineup.slot_index),
        )

    def restore(self, lineup: Lineup, lines: Lines) -> None:
        """Let the device have of sequences what it had."""
        self._lengths.index_copy_(0, lineup.slot_index, lines.lengths)
        self._counts.index_copy_(0, lineup.slot_index, lines.counts)
        self.carry.write(lineup.slots, lineup.slot_index, lines.carried)

    @property
    def ends(self) -> int:
        """How many ids may end a sequence, at most."""
        return self._eos.shape[1]

    def brought(self, slot_index: Tensor, facts: Tensor, eos: Tensor) -> None:
        """Write what the sequences of slots, int64 [B], bring into `facts` and `eos`; see `Lineup`.

        They are int64 [B, FACTS] and [B, `ends`].
        """
        torch.index_select(self._facts, 0, slot_index, out=facts)
        torch.index_select(self._eos, 0, slot_index, out=eos)

    def reserve_rows(self, rows: int) -> None:
        """Have room for the ids behind so many rows of every slot."""
        self.rows.reserve(len(self._members), rows)

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where all lies that a step reads or writes of its sequences, and how wide it is."""
        texts, rows = self._texts, self.rows.ids
        return (
            self._facts.data_ptr(),
            self._eos.shape[1],
            self._lengths.data_ptr(),
            self._counts.data_ptr(),
            texts.data_ptr(),
            texts.shape[1],
            rows.data_ptr(),
            rows.shape[1],
            self._keeps_texts,
            *self.carry.addresses,
            *self.params.addresses,
        )

    # Texts

    @property
    def keeps_texts(self) -> bool:
        """Whether the device has the sequences' texts."""
        return self._keeps_texts

    def keep_texts(self, lineup: Lineup) -> None:
        """Keep texts from now on, beginning with those of the lineup."""
        self._keeps_texts = True
        self.refresh(lineup)

    def refresh(self, lineup: Lineup) -> None:
        """Write the texts that the device does not have as they are now, if they are kept."""
        if not self._keeps_texts:
            return
        for member in lineup.members:
            text, slot = member.history(), member.slot
            if self._known_counts[slot] != len(text):
                self._make_room(len(text))
                self._write(self._texts[slot, : len(text)], text)
                self._counts[slot] = self._known_counts[slot] = len(text)

    def history(
        self, lineup: Lineup, longest: int | None = None, notes: Notes | None = None
    ) -> History:
        """Return the texts of the sequences as they were before the step, or note where they are.

        No text is longer than `longest`; None: than the host says. A step notes what it emits when
        all else of it is noted, behind the texts that it began with: they stay what they were.
        """
        if not self._keeps_texts:
            self.keep_texts(lineup)
        if longest is None:
            longest = max(len(member.history()) for member in lineup.members)
        if notes is not None and notes.counts is not None:
            width = min(longest, self._texts.shape[1])
            return History(as_tensor(notes.line(self._texts, width)), notes.counts)
        texts = self._texts[:, :longest].index_select(0, lineup.slot_index)
        return History(texts, self._counts.index_select(0, lineup.slot_index))

    def _extend(
        self,
        lineup: Lineup,
        longest: int,
        tokens: Tensor,
        count: Tensor | None,
        notes: Notes | None,
    ) -> None:
        """Let the first `count` [B] (None: all) of tokens [B, n] follow the texts."""
        width = tokens.shape[1]
        self._make_room(width + longest)
        if notes is not None and notes.counts is not None:
            noted_ops.follow(notes, self._texts, self._counts, notes.counts, tokens, count)
            return
        tokens = real(tokens)
        before = self._counts.index_select(0, lineup.slot_index)
        place = before.unsqueeze(1) + torch.arange(width, device=self.device)
        self._texts[lineup.slot_index.unsqueeze(1), place] = tokens
        after = before + (width if count is None else real(count))
        self._counts.index_copy_(0, lineup.slot_index, after)

    def _make_room(self, tokens: int) -> None:
        slots, room = self._texts.shape
        if tokens > room:
            self._texts = grown(self._texts, slots, max(tokens, 2 * room))
