"""Run an artifact's own code on the hash, and compare every token and cache entry with AR."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from nldc.certify.backbone import END_THINK_ID, VOCABULARY, DifferenceError, HashBatch, Text
from nldc.runtime.batch import Emit
from nldc.runtime.handover import Progress, in_turn
from nldc.runtime.sampling import Sampling
from nldc.runtime.switching import SwitchingDecoder
from nldc.runtime.thinking import ThinkingBudget, ThinkingLimit

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder

CPU = torch.device("cpu")


@dataclass
class Run:
    """Runs batches and counts what was compared."""

    most: int
    frontier: int | None
    sequences: int = 0
    steps: int = 0
    tokens: int = 0
    entries: int = 0
    accepted: Counter[int] = field(default_factory=Counter)

    def batch(
        self,
        kind: type[Decoder],
        size: int,
        sampling: Sampling,
        thinking: int | None,
        key: int,
    ) -> None:
        """Run so many sequences together; raise at the first difference."""
        decoder: Decoder = object.__new__(kind)
        live = [
            Text(key + n, [(key * 7 + n * 3 + i * 5) % VOCABULARY for i in range(1 + 2 * n)],
                      sampling, thinking)
            for n in range(size)
        ]  # fmt: skip
        self.sequences += size
        budget = None
        if thinking is not None:
            rows = len(live[-1].prompt) + (self.most + 3) * kind.SCRATCH_ROWS
            limit = ThinkingLimit(thinking, END_THINK_ID)
            budget = ThinkingBudget(limit, size, rows, torch.device("cpu"))
        carries = []
        for slot, sequence in enumerate(live):
            sequence.agrees = len(sequence.prompt) + sequence.key % 3
            batch = HashBatch([sequence], sampling, budget, slot)
            emit = decoder.prefill(batch, torch.tensor([sequence.prompt]))
            self._commit([sequence], emit)
            carries.append(emit.carry)
        trailing = [len(s.prompt) + len(s.emitted) - s.committed for s in live]
        carry = {name: torch.cat([c[name] for c in carries]) for name in carries[0]}
        depth = kind.SCRATCH_ROWS + 2
        number = 0
        while min(len(s.emitted) for s in live) < self.most:
            for place, sequence in enumerate(live):
                ahead = (number + 3 * place) % depth
                sequence.agrees = len(sequence.prompt) + len(sequence.emitted) + ahead
            emit = decoder.step(HashBatch(live, sampling, budget), carry)
            carry = emit.carry
            counts = self._commit(live, emit)
            self.accepted.update(counts)
            number += 1
            self.steps += size
            if min(counts) < 1:
                raise DifferenceError("a step emitted nothing")
            self._trailing(live, trailing)

    def turns(
        self,
        kind: type[SwitchingDecoder],
        exact: set[str],
        sampling: Sampling,
        thinking: int | None,
        key: int,
    ) -> None:
        """Decode one sequence with another strategy at every step; raise at the first difference.

        The tokens of those that are not `exact` are given, and those after them AR's.
        """
        parts = {name: object.__new__(part) for name, part in kind.PARTS.items()}
        prompt = [(key * 7 + i * 5) % VOCABULARY for i in range(1 + key % 6)]
        sequence = Text(key, prompt, sampling, thinking)
        choose = in_turn(kind.HANDOVERS, tuple(parts))
        name = list(parts)[key % len(parts)]
        budget = None
        if thinking is not None:
            rows = len(prompt) + (self.most + 3) * kind.SCRATCH_ROWS
            budget = ThinkingBudget(ThinkingLimit(thinking, END_THINK_ID), 1, rows, CPU)
        self.sequences += 1
        emit = parts[name].prefill(HashBatch([sequence], sampling, budget), torch.tensor([prompt]))
        self._commit([sequence], emit, given=name not in exact)
        carry = emit.carry
        asked = -1
        while len(sequence.emitted) < self.most:
            text = [*prompt, *sequence.emitted]
            chosen = choose(Progress(0, len(prompt), sequence.emitted, self.steps, name, 1))
            is_new = len(sequence.emitted) > asked and chosen != name
            if is_new and kind.HANDOVERS[chosen].can_enter(len(text)):
                asked = len(sequence.emitted)
                handover = kind.HANDOVERS[name := chosen]
                sequence.forget(len(text) - (handover.takes or 0))
                sequence.skips = handover.skips
                fresh = handover.carry_of(text)
                carry = {value: torch.tensor([tokens]) for value, tokens in fresh.items()}
            sequence.agrees = len(text) + (self.steps * 3 + key) % (kind.SCRATCH_ROWS + 2)
            emit = parts[name].step(HashBatch([sequence], sampling, budget), carry)
            carry = emit.carry
            self.accepted.update(self._commit([sequence], emit, given=name not in exact))
            self.steps += 1

    def _trailing(self, live: Sequence[Text], before: list[int]) -> None:
        for sequence, expected in zip(live, before, strict=True):
            found = len(sequence.prompt) + len(sequence.emitted) - sequence.committed
            if found != expected or self.frontier not in (None, found):
                claim = expected if self.frontier is None else self.frontier
                raise DifferenceError(f"the cache trails the text by {found} tokens, not {claim}")

    def _commit(self, live: Sequence[Text], emit: Emit, *, given: bool = False) -> list[int]:
        """Emit and keep as the session does, and compare both with AR.

        `given` tokens need not be AR's: AR goes on from them.
        """
        width = emit.tokens.shape[1]
        counts = [width] * len(live) if emit.count is None else emit.count.tolist()
        for number, sequence in enumerate(live):
            for token in emit.tokens[number, : counts[number]].tolist():
                place = len(sequence.prompt) + len(sequence.emitted) - sequence.skips
                if given and not sequence.skips:
                    sequence.give(token, place)
                if token != sequence.token(place):
                    right = sequence.token(place)
                    raise DifferenceError(
                        f"token {token} at position {place}, where AR has {right}"
                    )
                self.tokens += 1
                if sequence.skips:
                    sequence.skips -= 1
                else:
                    sequence.emitted.append(token)
            end = len(sequence.places)
            if emit.keep is not None:
                end = sequence.committed + int(emit.keep[number])
            for place in range(sequence.committed, end):
                self._entry(sequence, place)
            sequence.forget(end)
        return counts

    def _entry(self, sequence: Text, place: int) -> None:
        self.entries += 1
        if sequence.places[place] != place:
            raise DifferenceError(f"cache entry {place} was computed at {sequence.places[place]}")
        if not torch.equal(sequence.cache[place], sequence.state(place)):
            raise DifferenceError(f"cache entry {place} is not what AR computes there")
