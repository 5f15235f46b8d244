"""From what a tracer tells of each step to the document of a trace.

A recorder hears of steps in the order of the engine. It keeps what a sequence's choices were called
only as long as the sequence lives.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nldc.trace.document import (
    Choice,
    Draft,
    Forward,
    Origin,
    Part,
    Round,
    Source,
    Step,
)
from nldc.trace.program import Known

if TYPE_CHECKING:
    from nldc.runtime.trace.tracer import Chosen, Compared, Held, Ran, Traced
    from nldc.runtime.trace.tracer import Part as TracedPart

ROOM = 1 << 20
"""Numbers that one choice gives away; see `nldc.runtime.trace.run`."""
DIGITS = 7
"""Significant digits of probabilities and times."""


@dataclass(frozen=True)
class _Made:
    """A choice by its number: where the trace has it, its tokens, and how likely each was."""

    step: int
    choice: int
    tokens: tuple[int, ...]
    probability: tuple[float, ...]


@dataclass
class Recorder:
    """Turns steps into the trace's; `known` are the strategies that may run, by name.

    The engine's sequences have their own numbers: `prompts` has the prompt of each.
    """

    known: Mapping[str, Known]
    steps: list[Step] = field(default_factory=list)
    prompts: dict[int, tuple[int, ...]] = field(default_factory=dict)
    since: float = field(default_factory=time.perf_counter)
    _made: dict[int, dict[int, _Made]] = field(default_factory=dict)

    def __call__(self, traced: Traced) -> None:
        """Record a step."""
        self.steps.append(self.step(traced))

    def forget(self, sequence: int) -> None:
        """Keep nothing of the choices of a sequence that has ended."""
        self._made.pop(sequence, None)

    def step(self, traced: Traced) -> Step:
        """Return a step as the trace has it, whose sequences have the engine's numbers."""
        record = traced.record
        ended = time.perf_counter()
        told = {each.id: each for each in record.sequences}
        parts = []
        for part in traced.parts:
            if part.prompt is not None:
                self.prompts[part.id] = tuple(part.prompt)
                self._made[part.id] = {}
            own = told[part.id]
            parts.append(self._part(traced, part, own.drafted, own.accepted, own.kept, own.nfe))
        return Step(
            number=record.number,
            kind=record.kind,
            strategy=record.strategy,
            method=traced.method,
            begin=_short(ended - record.seconds - self.since),
            seconds=_short(record.seconds),
            live=record.live,
            waiting=record.waiting,
            parts=tuple(parts),
        )

    def _part(
        self, traced: Traced, part: TracedPart, width: int, accepted: int, kept: int, nfe: int
    ) -> Part:
        from nldc.runtime.trace import tracer as t

        number, made = traced.record.number, self._made.setdefault(part.id, {})
        forwards = [each for each in part.events if isinstance(each, t.Ran)]
        places = {each.number: place for place, each in enumerate(forwards)}
        choices: list[Choice] = []
        for each in part.events:
            if isinstance(each, t.Chosen):
                found = self._choice(traced, each, places, forwards)
                made[each.number // ROOM] = _Made(
                    number, len(choices), found.tokens, found.probability
                )
                choices.append(found)
        compared = [each for each in part.events if isinstance(each, t.Compared)]
        draft = self._draft(traced, compared[-1], made) if compared else None
        skipped = max(0, len(part.tokens.tokens) - accepted)
        tokens, numbers = part.tokens.tokens[skipped:], part.tokens.numbers[skipped:]
        verified = compared[-1].target.numbers[: compared[-1].matches] if compared else None
        return Part(
            sequence=part.id,
            drafted=width,
            kept=kept,
            nfe=nfe,
            tokens=tuple(tokens),
            origins=tuple(_origins(traced.record.kind == "prefill", width, numbers, verified)),
            chosen=_sources(tokens, numbers, made),
            forwards=tuple(_forward(each, traced.began) for each in forwards),
            choices=tuple(choices),
            draft=draft,
            rounds=tuple(
                Round(
                    node=self._node(traced, each.register),
                    tokens=tuple(each.rows.tokens),
                    masked=tuple(row for row, flag in enumerate(each.masked) if flag),
                )
                for each in part.events
                if isinstance(each, t.Round)
            ),
        )

    def _node(self, traced: Traced, register: str) -> str:
        registers = self.known[traced.strategy].registers
        return registers.get((traced.method, register), f"{traced.method}.{register}")

    def _choice(
        self, traced: Traced, each: Chosen, places: Mapping[int, int], forwards: list[Ran]
    ) -> Choice:
        from math import exp

        own = tuple(places[number] for number in each.forwards)
        numbers = [forward.layout.row.tolist() for forward in forwards]
        return Choice(
            node=self._node(traced, each.register),
            forwards=own,
            rows=tuple(numbers[forward][row] for forward, row in zip(own, each.rows, strict=True)),
            positions=tuple(each.positions),
            tokens=tuple(each.tokens),
            probability=tuple(
                _short(exp(min(0.0, logit - total)))
                for logit, total in zip(each.own, each.sums, strict=True)
            ),
            first=tuple(best[0] for best in each.best),
            second=tuple(best[1] for best in each.best),
            gap=tuple(one - two for one, two in each.logits),
        )

    def _draft(self, traced: Traced, each: Compared, made: Mapping[int, _Made]) -> Draft:
        most = each.most
        drafted = each.draft.tokens[:most]
        by = _sources(drafted, each.draft.numbers, made)
        targets = each.target.tokens[: most + 1]
        return Draft(
            node=self._node(traced, each.register),
            tokens=tuple(drafted),
            by=by,
            probability=_probabilities(drafted, each.draft, made),
            targets=tuple(targets),
            verified=_sources(targets, each.target.numbers, made),
            accepted=each.matches,
            branch=each.branch,
        )


def _probabilities(
    drafted: Iterable[int], held: Held, made: Mapping[int, _Made]
) -> tuple[float | None, ...]:
    found = []
    for token, number in zip(drafted, held.numbers, strict=False):
        one = made.get(number // ROOM)
        place = number % ROOM
        is_own = one is not None and place < len(one.tokens) and one.tokens[place] == token
        found.append(one.probability[place] if one is not None and is_own else None)
    return tuple(found)


def _sources(
    tokens: Iterable[int], numbers: Iterable[int], made: Mapping[int, _Made]
) -> tuple[Source | None, ...]:
    """Return the choices of tokens; None where it is not known, or another token was chosen."""
    found: list[Source | None] = []
    for token, number in zip(tokens, numbers, strict=False):
        one, place = made.get(number // ROOM), number % ROOM
        is_own = one is not None and place < len(one.tokens) and one.tokens[place] == token
        found.append((one.step, one.choice, place) if one is not None and is_own else None)
    return tuple(found)


def _origins(
    is_prefill: bool, width: int, numbers: Iterable[int], verified: list[int] | None
) -> Iterable[Origin]:
    """Yield how each token came to be; `verified` are the numbers of targets that agreed."""
    for number in numbers:
        if is_prefill:
            yield "prefill"
        elif verified is None:
            yield "ar" if width == 1 else "diffused"
        else:
            yield "accepted" if number >= 0 and number in verified else "bonus"


def _forward(ran: Ran, began: float) -> Forward:
    layout = ran.layout
    rows, offsets = layout.row.tolist(), layout.offset.tolist()
    order = sorted(range(len(rows)), key=rows.__getitem__)
    return Forward(
        node=ran.node,
        tokens=tuple(ran.tokens[place] for place in order),
        positions=tuple(ran.start + offsets[place] for place in order),
        adapted=tuple(row for row, place in enumerate(order) if ran.adapted and ran.adapted[place]),
        begin=_short(ran.begun - began),
        seconds=_short(ran.seconds),
    )


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
