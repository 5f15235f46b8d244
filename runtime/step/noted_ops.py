"""The ops of `ops.py` as notes: what each of them does to lines, op by op the same values.

Each takes values of which some are noted and the others may be; what is left to the tensors' own
operators is written as it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from nldc.runtime.rows.table import Table
from nldc.runtime.step.noted import (
    FLAGS,
    IDS,
    OWN,
    SCORES,
    Line,
    Noted,
    Notes,
    Number,
    as_tensor,
)
from nldc.runtime.step.trees import Longest


def own(notes: Notes, value: Tensor | Noted, *, shared: bool = False) -> Noted:
    """Return a value as one that was noted.

    Raises:
        ValueError: it is of another dtype, or not a line a sequence.
    """
    found = notes.of(value, shared=shared)
    if found is None:
        raise ValueError(f"values of {value.dtype} and shape {tuple(value.shape)} are not noted")
    return found


def constant(notes: Notes, dtype: torch.dtype, value: int) -> Tensor:
    """Return the same number, or flag, for each sequence, [B]."""
    found = notes.new(dtype, 1, flat=True)
    notes.copy(found, Number(value))
    return as_tensor(found)


# Rows


Pair = tuple[Tensor, Tensor]
"""Tokens [B, n], and which of them are masks."""


def rows(notes: Notes, mask_token_id: int, segments: Sequence[Tensor | Noted | int]) -> Pair:
    """See `ops.rows`.

    Masks are written first, then the tokens of each value that the segments are parts of.
    """
    width = sum(each if isinstance(each, int) else each.shape[1] for each in segments)
    tokens, masked = notes.new(IDS, width), notes.new(FLAGS, width)
    parts: dict[tuple[object, ...], tuple[Noted, list[int], list[int]]] = {}
    flags: list[int] = []
    for segment in segments:
        if isinstance(segment, int):
            flags += [1] * segment
            continue
        part = own(notes, segment)
        line = part.line
        key = (id(line.memory), line.rows, line.stride, line.blocks)
        first, to, of = parts.setdefault(key, (part, [], []))
        to += range(len(flags), len(flags) + part.width)
        start = line.offset - first.line.offset
        of += range(start, start + part.width)
        flags += [0] * part.width
    if any(flags):
        notes.copy(tokens, Number(mask_token_id))
    for first, to, of in parts.values():
        if _is_run(to) and _is_run(of) and of[0] == 0:
            whole = Noted(notes, first.line, IDS, len(of), False)
            notes.copy(tokens[:, to[0] : to[-1] + 1], whole)
        elif to:
            places = [notes.table(fixed(tuple(each))) for each in (to, of)]
            notes.do("spread", len(to), tokens, first, *places)
    if len(set(flags)) == 1:
        notes.copy(masked, Number(flags[0]))
    elif flags:
        notes.copy(masked, notes.table(fixed(tuple(flags))))
    return as_tensor(tokens), as_tensor(masked)


def numbered(notes: Notes, size: int) -> Tensor:
    """Return the numbers of so many rows, [n], which all sequences share."""
    return as_tensor(notes.table(fixed(tuple(range(size)))))


@cache
def fixed(numbers: tuple[int, ...]) -> Table:
    """Return the table of numbers that a strategy fixes; it stays: what was captured reads it."""
    return Table.of(numbers)


def _is_run(numbers: Sequence[int]) -> bool:
    return bool(numbers) and list(numbers) == [*range(numbers[0], numbers[0] + len(numbers))]


def join(notes: Notes, parts: Sequence[Tensor | Noted]) -> Tensor:
    """See `ops.join`."""
    values = [own(notes, part) for part in parts]
    found = notes.new(IDS, sum(each.width for each in values))
    begin = 0
    for each in values:
        notes.copy(found[:, begin : begin + each.width], each)
        begin += each.width
    return as_tensor(found)


def chosen(notes: Notes, table: Table, count: Tensor | Noted, low: int) -> Tensor:
    """See `ops.choose_rows`."""
    lines = notes.table(table)
    found = notes.new(IDS, lines.width)
    notes.do("chosen", lines.width, found, lines, own(notes, count), low, lines.width)
    return as_tensor(found)


def taken(values: Noted, numbers: Tensor | Noted) -> Tensor:
    """Return the rows of values [B, R] whose numbers are [n], or [B, n], each sequence its own."""
    notes = values.notes
    places = own(notes, numbers, shared=True)
    found = notes.new(values.dtype, places.width)
    notes.do("gather", places.width, found, values, places)
    return as_tensor(found)


# Drafts


def continued(text: Noted, count: Tensor | Noted, length: int, ngram: int) -> Tensor:
    """See `History.continued`, of slots' lines of a table and how much of each is its text."""
    notes = text.notes
    found = notes.new(IDS, length)
    line = Noted(notes, text.line, IDS, 1, False)  # how wide it is differs by the sequences
    notes.do("lookup", length, found, line, own(notes, count), ngram)
    return as_tensor(found)


def accepted(
    notes: Notes, draft: Tensor | Noted, target: Tensor | Noted, offset: int, compared: int
) -> tuple[Tensor, Tensor]:
    """Return how many of the first so many targets equal their draft [B], and the bonus [B, 1]."""
    held, wanted = own(notes, draft), own(notes, target)
    matches, bonus = notes.new(IDS, 1, flat=True), notes.new(IDS, 1)
    if not compared:
        notes.copy(matches, Number(0))
        notes.copy(bonus, wanted[:, :1])
        return as_tensor(matches), as_tensor(bonus)
    part = held[:, offset : offset + compared]
    notes.do("accept", compared, matches, bonus, part, wanted)
    return as_tensor(matches), as_tensor(bonus)


def longest(
    notes: Notes, draft: Tensor | Noted, target: Tensor | Noted, branches: Table
) -> Longest:
    """See `trees.longest_branch`."""
    held, wanted, lines = own(notes, draft), own(notes, target), notes.table(branches)
    branch, matches = notes.new(IDS, 1, flat=True), notes.new(IDS, 1, flat=True)
    width = len(branches.on(notes.device))
    above = 1 << (width - 1).bit_length()
    notes.do("branch", lines.width, branch, matches, held, wanted, lines, width, above)
    rows = chosen(notes, branches, branch, 0)
    tokens = taken(wanted, rows)
    return Longest(
        as_tensor(branch),
        as_tensor(matches),
        taken(held, rows),
        tokens,
        taken(own(notes, tokens), matches.unsqueeze(1)),
    )


def recalled(
    notes: Notes, pool: Tensor | Noted, entry: int, after: Tensor | Noted, count: int
) -> Tensor:
    """See `trees.recalled`."""
    held = own(notes, pool)
    entries = held.width // entry
    count = min(count, entries)
    found, room = notes.new(IDS, count * (entry - 1)), notes.new(IDS, entries)
    notes.do("recall", entries, found, held, own(notes, after), room, entry, count)
    return as_tensor(found)


# Selections


def ranks(
    notes: Notes, among: Tensor | Noted, score: Tensor | Noted, *, less_is_surer: bool
) -> Tensor:
    """Return how many rows of `among` are surer than each row, int64 [B, n]; see `ops.select`."""
    held = own(notes, score)
    found = notes.new(IDS, held.width)
    notes.do("rank", held.width, found, own(notes, among), held, less_is_surer)
    return as_tensor(found)


def sums_before(
    notes: Notes, among: Tensor | Noted, score: Tensor | Noted, rank: Tensor | Noted
) -> Tensor:
    """Return what the scores of the surer rows of `among` add up to, [B, n]; see `ops.select`."""
    held = own(notes, score)
    found, room = notes.new(SCORES, held.width), notes.new(SCORES, held.width)
    notes.do("sum_before", held.width, found, own(notes, among), held, own(notes, rank), room)
    return as_tensor(found)


def uniform(
    notes: Notes, facts: Tensor, positions: Tensor | Noted, stream: int, iteration: int
) -> Tensor:
    """See `noise.uniform`, of sequences whose keys and seeds begin a line of facts, [B, n]."""
    rows = own(notes, positions)
    found = notes.new(SCORES, rows.width)
    key, seed = (Noted(notes, Line(facts, OWN, None, offset=n), IDS, 1, False) for n in range(2))
    notes.do("noise", rows.width, found, rows, key, seed, Number(stream), Number(iteration))
    return as_tensor(found)


def fill(notes: Notes, held: Pair, where: Tensor | Noted, tokens: Tensor | Noted) -> Pair:
    """See `ops.fill`."""
    flags, before = own(notes, where), own(notes, held[0])
    found = notes.new(IDS, before.width)
    notes.where(found, flags, own(notes, tokens), before)
    return as_tensor(found), as_tensor(own(notes, held[1]) & ~flags)


def mask(notes: Notes, held: Pair, where: Tensor | Noted, mask_token_id: int) -> Pair:
    """See `ops.mask`."""
    flags, before = own(notes, where), own(notes, held[0])
    found = notes.new(IDS, before.width)
    notes.copy(found, Number(mask_token_id))
    notes.where(found, flags, found, before)
    return as_tensor(found), as_tensor(own(notes, held[1]) | flags)


# Loops and ends


def unfinished(notes: Notes, held: Pair, eos: Tensor, *, first: bool) -> Tensor:
    """See `ops.unfinished`; `eos` int64 [B, e] are the ids that end each sequence."""
    tokens = own(notes, held[0])
    found = notes.new(FLAGS, 1, flat=True)
    if not tokens.width:
        notes.copy(found, Number(0))
    ends, count = _ends(notes, eos, first=first)
    notes.do("unfinished", tokens.width, found, tokens, own(notes, held[1]), ends, count)
    return as_tensor(found)


def fill_after_eos(notes: Notes, held: Pair, eos: Tensor, *, first: bool) -> Pair:
    """See `ops.fill_after_eos`; `eos` is as in `unfinished`."""
    before = own(notes, held[0])
    tokens, masked = notes.new(IDS, before.width), notes.new(FLAGS, before.width)
    ends, count = _ends(notes, eos, first=first)
    notes.do("after_end", before.width, tokens, masked, before, own(notes, held[1]), ends, count)
    return as_tensor(tokens), as_tensor(masked)


def _ends(notes: Notes, eos: Tensor, *, first: bool) -> tuple[Noted, Number]:
    """Return where the ids lie that end a sequence, and how many there are."""
    line = Line(eos, OWN, None)  # how wide it is differs by the sequences
    return Noted(notes, line, IDS, 1, False), Number(1 if first else eos.shape[1])


def any_of(flags: Noted) -> Tensor:
    """Return whether any of flags [B, n] holds, bool [B]."""
    notes = flags.notes
    found = notes.new(FLAGS, 1, flat=True)
    if not flags.width:
        notes.copy(found, Number(0))
    notes.do("any", flags.width, found, flags)
    return as_tensor(found)


def total(flags: Noted) -> Tensor:
    """Return how many of flags [B, n] hold, int64 [B, 1]."""
    notes = flags.notes
    found = notes.new(IDS, 1)
    if not flags.width:
        notes.copy(found, Number(0))
    notes.do("total", flags.width, found, flags)
    return as_tensor(found)


def advance(notes: Notes, active: Tensor | Noted, held: Pair, after: Pair) -> None:
    """See `ops.advance`."""
    on = own(notes, active).unsqueeze(1)
    for before, now in zip(held, after, strict=True):
        into = own(notes, before)
        notes.where(into, on, own(notes, now), into)


# What a step says of its sequences


def add_to(count: Tensor | Noted, more: Tensor | Noted | int) -> None:
    """Add to a count [B], where it lies."""
    assert isinstance(count, Noted)
    notes = count.notes
    value = Number(more) if isinstance(more, int) else own(notes, more)
    notes.do("add", 1, count, count, value, False)


def sum_of(notes: Notes, sure: int, counted: Tensor | Noted | None) -> Tensor:
    """Return a count of the host, and of each sequence (None: nothing) on top, int64 [B]."""
    if counted is None:
        return constant(notes, IDS, sure)
    found = notes.new(IDS, 1, flat=True)
    notes.do("add", 1, found, own(notes, counted), Number(sure), False)
    return as_tensor(found)


def keep(notes: Notes, table: Tensor, values: Tensor | Noted) -> None:
    """Write values [B] or [B, n] where the slots' lines are, in a table [slots] or [slots, n]."""
    given = own(notes, values)
    notes.copy(notes.line(table, None if given.flat else given.width), given)


def read(notes: Notes, table: Tensor, width: int | None = None) -> Tensor:
    """Return the slots' lines of a table, in memory of their own."""
    return as_tensor(notes.line(table, width).clone())


def follow(
    notes: Notes,
    texts: Tensor,
    counts: Tensor,
    before: Tensor | Noted,
    tokens: Tensor | Noted,
    count: Tensor | Noted | None,
) -> None:
    """Let tokens [B, n] follow the slots' texts, of which the first `count` [B] (None: all) count.

    `texts` [slots, n] and `counts` [slots] are the tables, `before` [B] what the counts were when
    the step began: another place may be the same slot, and have written there already.
    """
    said, length = own(notes, tokens), own(notes, before)
    notes.do("scatter", said.width, notes.line(texts, said.width), said, length)
    after = length + (said.width if count is None else count)
    keep(notes, counts, after)
