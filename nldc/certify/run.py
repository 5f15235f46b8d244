"""Run an artifact's own code on the hash, and compare every token and cache entry with AR.

What promises nothing is not compared: it must run, go on from its own text, emit tokens that were
chosen and none that a processor forbids, and treat each sequence of a batch like any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nldc.certify.backbone import HashBatch, Room, World
from nldc.certify.brought import drawn
from nldc.certify.paths import follow
from nldc.certify.text import (
    EOS_ID,
    MASK_ID,
    VOCABULARY,
    DifferenceError,
    Rules,
    Text,
    prompt_of,
)
from nldc.runtime.engine.handover import Progress, in_turn
from nldc.runtime.step.contract import StepBatch
from nldc.runtime.step.params import Param
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.values import Emit
from nldc.runtime.switching import SwitchingDecoder

if TYPE_CHECKING:
    from nldc.runtime.decoder import Decoder

LEAST_STEPS = 4
"""Steps of a batch, however many tokens each of them emits."""

Step = Callable[[StepBatch, dict[str, Tensor]], Emit]


@dataclass(frozen=True)
class Scenario:
    """One batch: the lengths of its prompts, and what is asked of the decoder.

    `forbidden`: a processor forbids tokens; `embedded`: prompts are given as embeddings;
    `endless`: no text ends; `by_turns`: every step of the file is taken in turn, whatever its route
    says.
    """

    lengths: tuple[int, ...]
    temperature: float = 0.0
    thinking: int | None = None
    forbidden: bool = False
    embedded: bool = False
    adapters: bool = True
    endless: bool = False
    by_turns: bool = False


SCENARIOS = (
    Scenario((1, 3, 5), endless=True),
    Scenario((2, 1, 7, 12), 0.9, forbidden=True),
    Scenario((9, 2, 30), 0.9, thinking=2, by_turns=True),
    Scenario((1, 4, 6, 3, 8, 2), thinking=7, adapters=False),
    Scenario((41, 200), embedded=True, endless=True, by_turns=True),
    Scenario((130, 67, 1), 0.9, forbidden=True, adapters=False, by_turns=True),
)


@dataclass
class Run:
    """Runs batches and counts what was compared.

    `most` is how many tokens each sequence gets. `given`: tokens need not be AR's, which then goes
    on from them; a sequence then ends at an EOS.
    """

    most: int
    frontier: int | None
    given: bool = False
    sequences: int = 0
    steps: int = 0
    tokens: int = 0
    entries: int = 0
    accepted: Counter[int] = field(default_factory=Counter)

    def batch(
        self, kind: type[Decoder], scenario: Scenario, seed: int, key: int, *, turned: bool = False
    ) -> dict[int, list[int]]:
        """Run the sequences of a scenario together; raise at the first difference.

        Returns what each emitted, by its key; `turned` lets the first two change places, which
        no turn or reversal of the batch does.
        """
        decoder: Decoder = object.__new__(kind)
        rules = Rules(
            Sampling(scenario.temperature, seed=seed),
            scenario.thinking,
            scenario.forbidden,
            placed=not self.given,
            endless=scenario.endless,
        )
        order = list(enumerate(scenario.lengths))
        params = kind.runtime_params()
        texts = [self._text(key + n, size, rules, scenario, params) for n, size in order]
        live = [texts[1], texts[0], *texts[2:]] if turned else list(texts)
        self.sequences += len(live)
        longest = max(scenario.lengths)
        steps = _steps(decoder, scenario)
        least = LEAST_STEPS * len(steps)
        # No step keeps more rows than it writes; a batch has one step a token at most.
        room = Room.of(kind)
        steps_at_most = self.most + least + 1
        capacity = room.at(longest, steps_at_most) + steps_at_most * kind.SCRATCH_ROWS
        world = World.of(len(live), capacity, rules, room, scenario.adapters)
        slots = list(range(len(live)))
        carries = []
        for slot, sequence in enumerate(live):
            place = sequence.key - key
            ahead = (kind.SCRATCH_ROWS + 1, 0, 1)[place % 3]
            sequence.agrees = len(sequence.prompt) + ahead
            batch = HashBatch([sequence], world, [slot])
            emit = decoder.prefill(batch, torch.tensor([sequence.content]))
            self._commit([sequence], emit)
            carries.append(emit.carry)
        trailing = {s.key: len(s.prompt) + len(s.emitted) - s.committed for s in live}
        carry = {name: torch.cat([c[name] for c in carries]) for name in carries[0]}
        # Of each step, so that a short one meets drafts that fail at once as often as a long one.
        depths, widest = ([start] * len(steps) for start in (kind.SCRATCH_ROWS + 2, 0))
        number = 0
        while True:
            left = [n for n, s in enumerate(live) if not s.ended]
            live, slots = [live[n] for n in left], [slots[n] for n in left]
            is_enough = number >= least
            if not live or (is_enough and min(len(s.emitted) for s in live) >= self.most):
                break
            carry = {name: value[left] for name, value in carry.items()}
            own, turn = divmod(number, len(steps))
            depth = depths[turn]
            for sequence in live:
                place = sequence.key - key
                ahead = depth - 1 - (own + 3 * place) % depth
                sequence.agrees = len(sequence.prompt) + len(sequence.emitted) + ahead
            parts = [(steps[turn], list(range(len(live))))]
            if decoder.ROUTED_BY and not scenario.by_turns:
                parts = _parted(decoder, carry, len(live))
            carry, counts = self._advance(live, slots, world, carry, parts)
            self.accepted.update(counts)
            number += 1
            self.steps += len(live)
            widest[turn] = max(widest[turn], *counts)
            depths[turn] = min(depth, widest[turn] + 2)
            if min(counts) < 1:
                raise DifferenceError("a step emitted nothing")
            if not self.given:
                self._trailing(live, trailing)
        return {sequence.key: sequence.emitted for sequence in texts}

    def _advance(
        self,
        live: Sequence[Text],
        slots: Sequence[int],
        world: World,
        carry: Mapping[str, Tensor],
        parts: Sequence[tuple[Step, list[int]]],
    ) -> tuple[dict[str, Tensor], list[int]]:
        """Let the sequences of each part take its step; return what they carry and emitted."""
        counts = [0] * len(live)
        made: list[Mapping[str, Tensor]] = []
        for step, places in parts:
            some = [live[n] for n in places]
            given = {name: value[places] for name, value in carry.items()}
            together = HashBatch(some, world, [slots[n] for n in places])
            emit = follow(together, step(together, given))
            _check_carry(given, emit.carry, len(some))
            made.append(emit.carry)
            for place, count in zip(places, self._commit(some, emit), strict=True):
                counts[place] = count
        order = [n for _, places in parts for n in places]
        back = sorted(range(len(order)), key=order.__getitem__)
        return {name: torch.cat([each[name] for each in made])[back] for name in carry}, counts

    def _text(
        self, key: int, length: int, rules: Rules, scenario: Scenario, params: Sequence[Param]
    ) -> Text:
        without = rules.forbids(0) if self.given else ()
        prompt = prompt_of(length, key, without)
        content = list(range(VOCABULARY, VOCABULARY + length)) if scenario.embedded else prompt
        if scenario.embedded:
            prompt = [MASK_ID] * length
        return Text(key, prompt, rules, content, drawn(params, key))

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
        rules = Rules(sampling, thinking)
        prompt = prompt_of(1 + key % 6, key, ())
        sequence = Text(key, prompt, rules, params=drawn(kind.runtime_params(), key))
        choose = in_turn(kind.HANDOVERS, tuple(parts))
        name = list(parts)[key % len(parts)]
        room = Room.of(kind)
        capacity = room.at(len(prompt), self.most + 4 + kind.SCRATCH_ROWS)
        world = World.of(1, capacity, rules, room, True)
        self.sequences += 1
        emit = parts[name].prefill(HashBatch([sequence], world, [0]), torch.tensor([prompt]))
        own = kind.HANDOVERS[name].trails is None
        self._commit([sequence], emit, given=name not in exact, own=own)
        carry = emit.carry
        asked, cycles = -1, 0
        while len(sequence.emitted) < self.most:
            text = [*prompt, *sequence.emitted]
            chosen = choose(Progress(0, len(prompt), sequence.emitted, self.steps, name, 1))
            is_new = len(sequence.emitted) > asked and chosen != name
            if is_new and kind.HANDOVERS[chosen].can_enter(text, (EOS_ID,)):
                asked = len(sequence.emitted)
                handover = kind.HANDOVERS[name := chosen]
                sequence.forget(len(text) - (handover.takes or 0))
                sequence.skips = handover.skips
                fresh = handover.carry_of(text)
                carry = {value: torch.tensor([tokens]) for value, tokens in fresh.items()}
            sequence.agrees = len(text) + (self.steps * 3 + key) % (kind.SCRATCH_ROWS + 2)
            step: Step = parts[name].step
            if kind.PARTS[name].ROUTED_BY:
                ((step, _),) = _parted(parts[name], carry, 1)
            alone = HashBatch([sequence], world, [0])
            emit = follow(alone, step(alone, carry))
            carry = emit.carry
            before = len(sequence.emitted)
            # What is never left keeps what it likes: nobody else reads its cache.
            own = kind.HANDOVERS[name].trails is None
            counts = self._commit([sequence], emit, given=name not in exact, own=own)
            self.accepted.update(counts)
            self.steps += 1
            cycles = 0 if len(sequence.emitted) > before else cycles + 1
            if cycles > len(parts):
                raise DifferenceError("steps emitted nothing")

    def _trailing(self, live: Sequence[Text], before: Mapping[int, int]) -> None:
        for sequence in live:
            expected = before[sequence.key]
            found = len(sequence.prompt) + len(sequence.emitted) - sequence.committed
            if found != expected or self.frontier not in (None, found):
                claim = expected if self.frontier is None else self.frontier
                raise DifferenceError(f"the cache trails the text by {found} tokens, not {claim}")

    def _commit(
        self, live: Sequence[Text], emit: Emit, *, given: bool = False, own: bool = False
    ) -> list[int]:
        """Emit and keep as the session does, and compare both with AR.

        `given` tokens need not be AR's: AR goes on from them. Rows of their `own` need not be.
        """
        rows, width = emit.tokens.shape
        counts = [width] * len(live) if emit.count is None else emit.count.tolist()
        keeps: list[int | None] = [None] * len(live)
        if emit.keep is not None:
            keeps = emit.keep.tolist()
        if not rows == len(counts) == len(keeps) == len(live):
            raise DifferenceError(f"tokens of {rows} sequences are emitted for {len(live)}")
        if not all(0 <= count <= width for count in counts):
            raise DifferenceError(f"{max(counts)} tokens of {width} are emitted")
        for number, sequence in enumerate(live):
            for token in emit.tokens[number, : counts[number]].tolist():
                self._emit(sequence, token, given=given or self.given)
            speculative = len(sequence.cache) - sequence.committed
            wanted = keeps[number]
            keep = speculative if wanted is None else wanted
            if not 0 <= keep <= speculative:
                raise DifferenceError(f"{keep} rows of {speculative} that are there are to stay")
            end = sequence.committed + keep
            for place in range(sequence.committed, end):
                self._entry(sequence, place, own=own or self.given)
            sequence.forget(end)
        return counts

    def _emit(self, sequence: Text, token: int, *, given: bool) -> None:
        if sequence.ended:
            return
        place = len(sequence.prompt) + len(sequence.emitted) - sequence.skips
        if not 0 <= token < VOCABULARY:
            raise DifferenceError(f"{token} at position {place} is the id of no token")
        if token in sequence.rules.forbids(place):
            what = "the mask token" if token == MASK_ID else f"token {token}"
            raise DifferenceError(f"{what} is emitted at position {place}, which was forbidden")
        if given and not sequence.skips:
            sequence.give(token, place)
        if token != sequence.token(place):
            right = sequence.token(place)
            raise DifferenceError(f"token {token} at position {place}, where AR has {right}")
        self.tokens += 1
        if sequence.skips:
            sequence.skips -= 1
        else:
            sequence.emitted.append(token)
        sequence.ended = self.given and token == EOS_ID

    def _entry(self, sequence: Text, place: int, *, own: bool) -> None:
        self.entries += 1
        if own:
            return
        state, position = sequence.cache[place]
        if position != place:
            raise DifferenceError(f"cache entry {place} was computed at {position}")
        if state != sequence.state(place):
            raise DifferenceError(f"cache entry {place} is not what AR computes there")


def scenarios_of(kind: type[Decoder]) -> tuple[Scenario, ...]:
    """Return how a decoder is run: one of several steps in every way by turns too."""
    by_turns = (replace(scenario, by_turns=True) for scenario in SCENARIOS)
    return (*SCENARIOS, *by_turns) if _named(kind) else SCENARIOS


def _named(kind: type[Decoder]) -> list[str]:
    """Return the names of the steps of a file that has several."""
    return sorted(name for name in vars(kind) if name.startswith("step_"))


def _steps(decoder: Decoder, scenario: Scenario) -> list[Step]:
    """Return the step that the route chooses, or all steps of the file one after another."""
    step: Step = decoder.step
    if not scenario.by_turns:
        return [step]
    return [getattr(decoder, name) for name in _named(type(decoder))] or [step]


def _parted(
    decoder: Decoder, carry: Mapping[str, Tensor], size: int
) -> list[tuple[Step, list[int]]]:
    """Return the steps that sequences take by what they carry, each with who takes it."""
    parts: dict[str, list[int]] = {}
    for number in range(size):
        told = [int(carry[name][number, 0]) for name in decoder.ROUTED_BY]
        parts.setdefault(decoder.route(size, *told), []).append(number)
    return [(getattr(decoder, name), places) for name, places in parts.items()]


def _check_carry(before: Mapping[str, Tensor], after: Mapping[str, Tensor], size: int) -> None:
    """Raise unless a step carries what it was given, a row for each sequence."""
    shapes = {name: tuple(value.shape) for name, value in before.items()}
    found = {name: tuple(value.shape) for name, value in after.items()}
    if shapes != found or any(shape[0] != size for shape in found.values()):
        raise DifferenceError(f"a step carries {found}, and was given {shapes}")
