"""Each op on random values of many shapes: what is noted of it against what torch makes of it.

`launch` does what was noted: torch, or the kernel in Triton's interpreter.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.model.backend import Between
from nldc.runtime.rows.table import Table
from nldc.runtime.step import ops
from nldc.runtime.step.history import History
from nldc.runtime.step.lineup import Lineup
from nldc.runtime.step.member import Member
from nldc.runtime.step.noted import Notes, as_tensor, real
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.sequences import Sequences
from nldc.runtime.step.values import Hidden, Rows

CPU = torch.device("cpu")
MASK = 9
SCORES = (0.0, -0.0, 0.25, 0.5, 0.5, 0.75, 1.0, 1e-30, torch.inf, -torch.inf, torch.nan)
"""Scores that are equal, signed zeros, and what is no number."""


@dataclass
class Case:
    """Two batches of the same sequences, one of which notes; `random` draws what they are given."""

    noting: Sequences
    plain: Sequences
    random: random.Random

    @property
    def size(self) -> int:
        return self.plain.size

    def tokens(self, width: int) -> Tensor:
        lines = [[self.random.randrange(6) for _ in range(width)] for _ in range(self.size)]
        return torch.tensor(lines, dtype=torch.int64).view(self.size, width)

    def flags(self, width: int) -> Tensor:
        odds = self.random.choice([0, 0.3, 0.8, 1])
        lines = [[self.random.random() < odds for _ in range(width)] for _ in range(self.size)]
        return torch.tensor(lines, dtype=torch.bool).view(self.size, width)

    def scores(self, width: int) -> Tensor:
        def one() -> float:
            rare = self.random.random() < 0.4
            return self.random.choice(SCORES) if rare else self.random.random()

        lines = [[one() for _ in range(width)] for _ in range(self.size)]
        return torch.tensor(lines, dtype=torch.float32).view(self.size, width)

    def rows(self, width: int) -> Rows:
        return Rows(self.tokens(width), self.flags(width))

    def noted(self, value: Any) -> Any:
        """Return what was drawn as the noting batch has it."""
        assert self.noting.notes is not None
        if isinstance(value, Rows):
            return Rows(self.noted(value.tokens), self.noted(value.masked))
        return self.noting.notes.known(value) if isinstance(value, Tensor) else value

    def same(self, call: Callable[..., Any], *given: Any) -> None:
        """Hold a call on a batch and values against the same call on what notes."""
        self.equal(call(self.plain, *given), call(self.noting, *map(self.noted, given)))

    @staticmethod
    def equal(want: Any, found: Any) -> None:
        """Hold what was noted against what torch made."""
        for one, other in zip(_tensors(want), _tensors(found), strict=True):
            value = real(other)
            assert value is not other, "it was noted"
            assert value.dtype == one.dtype
            assert torch.equal(one, value), (one, value)


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, Rows):
        yield from (value.tokens, value.masked)
    elif isinstance(value, ops.Accepted):
        yield from (value.tokens, value.drafted, value.matches, value.rows, value.bonus)
        if value.branch is not None:
            yield value.branch
    elif isinstance(value, tuple):
        for each in value:
            yield from _tensors(each)
    else:
        yield value


def case(launch: Between, seed: int) -> Case:
    """Return batches of 1 to 3 sequences, of which each is ended by 1 to 3 ids, or by none."""
    drawn = random.Random(seed)
    size = drawn.choice([1, 1, 2, 3])
    members = [
        Member(
            slot,
            drawn.choice([0, 7, 2**40 + 1]),
            Sampling(seed=drawn.choice([0, 9, 2**64 - 3])),
            eos=tuple(drawn.sample(range(6), drawn.randrange(4))),
        )
        for slot in drawn.sample(range(8), size)
    ]
    noting, plain = (Sequences(Lineup.of(members, MASK, CPU)) for _ in range(2))
    noting.notes = Notes(noting.lineup.slot_index, launch)
    return Case(noting, plain, drawn)


def width(drawn: random.Random, least: int = 1) -> int:
    return drawn.choice([each for each in (1, 2, 3, 5, 8, 17, 33, 64) if each >= least])


def rows(each: Case) -> None:
    token, more, masks = each.tokens(1), each.tokens(width(each.random)), width(each.random)
    order = (each.random.randrange(masks + 1), masks)

    def call(batch: Any, token: Any, more: Any) -> Any:
        return ops.rows(batch, token, order[0], more[:, 1:], order[1], more)

    each.same(call, token, more)
    each.same(lambda batch, token: ops.rows(batch, token), token)


def grouped(each: Case) -> None:
    groups = each.random.choice([1, 2, 5])
    draft, share = each.tokens(2 * groups), width(each.random)
    counts = tuple(each.random.randrange(3) for _ in range(groups))
    for by_segment in (True, False):

        def call(batch: Any, draft: Any, by_segment: bool = by_segment) -> Any:
            segments = (draft, share, counts)
            return ops.grouped_rows(batch, groups, *segments, by_segment=by_segment)

        each.same(call, draft)


def taken(each: Case) -> None:
    values, size = each.tokens(width(each.random, 2)), width(each.random)
    numbers = [each.random.randrange(values.shape[1]) for _ in range(size)]
    table = Table.of([numbers, numbers[::-1]])
    count = each.tokens(1)[:, 0] % 2 + 3

    def call(_: Any, values: Any, count: Any) -> Any:
        chosen = ops.choose_rows(table, count, low=3)
        by_table = ops.take_rows(values, Table.of(numbers))
        parts = ops.join(values[:, 1:], by_table, values)
        return by_table, ops.gather_rows(values, chosen), chosen, parts

    each.same(call, values, count)


def accepted(each: Case) -> None:
    size = width(each.random)
    draft, offset = each.tokens(size), each.random.randrange(2)
    changed = each.tokens(size)
    target = torch.where(each.flags(size), changed, draft.roll(-offset, 1))
    each.same(lambda _, *pair: ops.accept_longest_prefix(*pair, offset=offset), draft, target)


def looked_up(each: Case) -> None:
    room, alphabet = each.random.choice([1, 2, 3, 9, 40, 1025, 2100]), each.random.choice([1, 2, 6])
    texts = torch.tensor([[each.random.randrange(alphabet) for _ in range(room)] for _ in range(8)])
    counts = [each.random.choice([room, each.random.randint(1, room)]) for _ in range(each.size)]
    slots, notes = each.plain.lineup.slot_index, each.noting.notes
    assert notes is not None
    plain = History(texts[slots], torch.tensor(counts))
    noted = History(as_tensor(notes.line(texts, room)), notes.known(plain.count))
    for _ in range(2):
        length, ngram = width(each.random), each.random.choice([1, 2, 3, 5, 70])
        each.equal(plain.continued(length, ngram), noted.continued(length, ngram))
    places = each.tokens(3) * room // 4
    assert torch.equal(plain.at(places), noted.at(places)), "torch has what is noted"


def branched(each: Case) -> None:
    count, length = each.random.choice(
        [(1, 1), (1, 7), (4, 1), (3, 5), (9, 33), (64, 33), (2, 1030)]
    )
    size = each.random.choice([length, 3 * length + 1])
    branches = Table.of(
        [[each.random.randrange(size) for _ in range(length)] for _ in range(count)]
    )
    draft = each.tokens(size) % 2
    target = torch.where(each.flags(size), each.tokens(size), each.tokens(1) % 2)
    each.same(lambda _, *pair: ops.accept_longest_branch(*pair, branches), draft, target)
    agreeing = torch.zeros_like(draft)
    each.same(lambda _, *pair: ops.accept_longest_branch(*pair, branches), agreeing, agreeing)


def recalled(each: Case) -> None:
    entry, entries = each.random.choice([(2, 1), (2, 5), (3, 64), (4, 65), (2, 150), (16, 17)])
    count, alphabet = each.random.choice([1, 2, entries]), each.random.choice([1, 2, 6])
    pool, after = each.tokens(entry * entries) % alphabet, each.tokens(1) % (alphabet + 1)
    count = min(count, entries)
    each.same(lambda _, *given: ops.recall(given[0], entry, given[1], count), pool, after)


def selected(each: Case) -> None:
    size = width(each.random)
    among, score, less = each.flags(size), each.scores(size), each.random.random() < 0.5
    limit = each.random.choice([0.5, 1, -0.25, 2.5])
    every: dict[str, Callable[[Any], Any]] = {
        "at_least": lambda _: limit,
        "at_most": lambda _: limit,
        "best": lambda among: each.random.choice([1, 2.5]) if among is None else ops.left(among),
        "within": lambda _: limit,
        "always_best": lambda _: 1,
        "where": lambda _: (
            lambda row, rank, score: (
                ((rank + 2) * (1 - score) < limit) | ((row - (row % 3 + 3) % 3) // 3 == rank)
            )
        ),
    }
    names = each.random.sample(sorted(every), each.random.randrange(1, 4))

    def call(_: Any, among: Any, score: Any) -> Any:
        rules: dict[str, Any] = {name: every[name](among) for name in names}
        if "best" in rules:
            rules["best"] = (rules["best"] - 1) * 2
        return ops.select(among, score, less_is_surer=less, **rules)

    each.same(call, among, score)


def taken_at_random(each: Case) -> None:
    size = width(each.random)
    positions = each.tokens(size) * each.random.choice([1, 2**20, 2**40 + 1])
    states = Hidden(torch.zeros(each.size, size, 0), positions)
    stream, iteration = each.random.randrange(9), each.random.randrange(70)

    def call(batch: Any, flags: Any) -> Any:
        numbers = batch.noise(states, stream, iteration)
        return numbers, ops.select(flags, numbers, best=2)

    each.same(call, each.flags(size))


def filled(each: Case) -> None:
    size = width(each.random)
    held, flags, tokens = each.rows(size), each.flags(size), each.tokens(size)
    active = each.flags(1)[:, 0]
    each.same(lambda _, *given: ops.fill(*given), held, flags, tokens)
    each.same(lambda _, *given: ops.fill_left(*given), active, held, tokens)


def ended(each: Case) -> None:
    held, first = each.rows(width(each.random)), each.random.random() < 0.5

    def call(batch: Any, held: Rows) -> Any:
        after = ops.fill_after_eos(batch, held, first=first)
        goes_on = ops.unfinished(batch, held, first=first), ops.unfinished(batch, after)
        return after, goes_on, ops.has_masks(after), ops.left(held.masked)

    each.same(call, held)


def looped(each: Case) -> None:
    held, after = each.rows(size := width(each.random)), each.rows(size)
    flags = each.flags(1)[:, 0]

    def call(batch: Any, held: Rows, after: Rows, flags: Any) -> Any:
        active, own = batch.everyone(), ops.begun(held)
        for number in batch.rounds(active, 2, least=2):
            batch.count(active)
            ops.advance(active, own, after)
            active &= flags if number else ops.has_masks(own)
        return own, active.clone(), batch.forwards()

    each.same(call, held, after, flags)


CASES: dict[str, Callable[[Case], None]] = {
    each.__name__: each
    for each in (
        rows,
        grouped,
        taken,
        accepted,
        looked_up,
        branched,
        recalled,
        selected,
        taken_at_random,
        filled,
        ended,
        looped,
    )
}
