"""Choices of rows, decided by listing: `both.mask[group == kept.rows - 1]`, `draft[1:]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import lcm
from typing import Any

import numpy as np

from nldc.expr import Expr, Number, Value, evaluate, fold
from nldc.ir.course import course
from nldc.ir.facts import NO_KIND, BadPickError, facts_of, row_ranges, rows_where
from nldc.ir.layout import Layout, Row, Segment
from nldc.ir.ops import At, Between, OfKind, Padded, Pick, Where
from nldc.ir.ranges import UndecidedError, evaluate_range
from nldc.ir.size import Size

PROBES = (1, 2, 3, 5)
"""Prompt lengths that are always looked at."""

LONGEST = 256
"""The longest prompt that is listed to decide which of its rows are chosen."""


def picked(
    rows: Sequence[Row], picks: Sequence[Pick], kinds: Sequence[str], others: Mapping[str, Value]
) -> tuple[int, ...]:
    """Return the numbers of the rows that are left after each pick in turn.

    Raises:
        BadPickError: an index lies outside.
        ExprError: a predicate has no value.
    """
    left = among = tuple(rows)
    for pick in picks:
        among = left or among
        match pick:
            case OfKind(kind):
                left = tuple(row for row in left if row.kind == kind)
            case Where(predicate):
                left = rows_where(left, predicate, kinds, others)
            case At(index):
                place = _integer(index, others)
                if not -len(left) <= place < len(left):
                    raise BadPickError(
                        f"row {place} is outside: there are {len(left)}", index.start, index.end
                    )
                left = (left[place],)
            case Between(start, stop):
                bounds = [None if b is None else _integer(b, others) for b in (start, stop)]
                left = left[slice(*bounds)]
            case Padded(size):
                left = (*left, *among[-1:] * (size - len(left)))
    return tuple(row.row for row in left)


@lru_cache(maxsize=4096)
def picked_of(
    layout: Layout,
    prompt_length: int,
    picks: tuple[Pick, ...],
    kinds: tuple[str, ...],
    others: tuple[tuple[str, Value], ...] = (),
) -> tuple[int, ...]:
    """Return what `picked` does for the rows of a layout: found for all rows at once, and kept.

    Raises:
        BadPickError: an index lies outside.
        ExprError: a predicate has no value.
    """
    rows, facts = layout.rows(prompt_length), _facts(layout, prompt_length, kinds)
    numbers: dict[str, Value] = dict(others)
    left = among = np.arange(len(rows))
    for pick in picks:
        among = left if len(left) else among
        match pick:
            case OfKind(kind):
                left = left[[rows[row].kind == kind for row in left]]
            case Where(predicate):
                try:
                    left = left[_hold(predicate, facts, left, kinds, numbers)]
                except UndecidedError:  # the rows one by one say which of them it is, and why
                    return picked(rows, picks, kinds, numbers)
            case Padded(size):
                left = np.append(left, among[-1:].repeat(max(size - len(left), 0)))
            case At() | Between():
                at = picked([rows[row] for row in left], (pick,), kinds, numbers)
                left = np.array(at, dtype=np.int64)
    return tuple(int(row) for row in left)


@lru_cache(maxsize=64)
def _facts(layout: Layout, prompt_length: int, kinds: tuple[str, ...]) -> Mapping[str, Any]:
    held = [facts_of(row, kinds) for row in layout.rows(prompt_length)]
    names = held[0] if held else ()
    return {name: np.array([int(facts[name]) for facts in held]) for name in names}


def _hold(
    predicate: Expr,
    facts: Mapping[str, Any],
    left: Any,
    kinds: Sequence[str],
    others: Mapping[str, Value],
) -> Any:
    chosen = {name: values[left] for name, values in facts.items()}
    found = evaluate_range(predicate, row_ranges(chosen, kinds, others))
    return np.broadcast_to(np.asarray(found.low) != 0, left.shape)


def _integer(expr: Expr, others: Mapping[str, Value]) -> int:
    value = evaluate(expr, others)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadPickError(f"a row's place is a whole number, not {value}", expr.start, expr.end)
    return value


def picked_size(
    layout: Layout,
    picks: Sequence[Pick],
    kinds: Sequence[str],
    others: Sequence[Mapping[str, Value]],
    span: Callable[[], tuple[int, int]],
) -> Size:
    """Return how many rows are left, which must be the same for each of `others` (the counts).

    Raises:
        BadPickError: at `span`, if the number varies with a count or does not follow the prompt
            length, or if no finite list of prompts decides which rows they are.
    """
    if layout.dynamic:
        if any(isinstance(pick, Padded) for pick in picks):
            message = "rows that depend on the prompt cannot be padded to a fixed number"
            raise BadPickError(message, *span(), "lay out a fixed number of rows")
        if others != [{}]:
            message = "a count cannot choose among rows that depend on the prompt"
            raise BadPickError(message, *span(), "lay out a fixed number of rows, or name a place")
        return sum((count for _, count in prompt_runs(layout, picks, kinds, span)), Size(0))
    sizes = set(picked_sizes(layout, picks, kinds, others))
    if picks and isinstance(picks[-1], Padded) and max(sizes) > picks[-1].size:
        message = f"up to {max(sizes)} rows cannot be padded to {picks[-1].size}"
        raise BadPickError(message, *span(), "choose no more rows than `pad_to` says")
    if len(sizes) > 1:
        raise BadPickError(
            f"the number of rows varies with the count, from {min(sizes)} to {max(sizes)}",
            *span(),
            "choose the same number of rows for every count, or `sample` them with `pad_to`",
        )
    return Size(sizes.pop())


def picked_sizes(
    layout: Layout,
    picks: Sequence[Pick],
    kinds: Sequence[str],
    others: Sequence[Mapping[str, Value]],
) -> tuple[int, ...]:
    """Return how many rows of a layout are left for each of `others`; none for rows of a prompt."""
    if layout.dynamic:
        return ()
    chosen = (picked_of(layout, 0, tuple(picks), tuple(kinds), tuple(e.items())) for e in others)
    return tuple(map(len, chosen))


def prompt_runs(
    layout: Layout,
    picks: Sequence[Pick],
    kinds: Sequence[str],
    span: Callable[[], tuple[int, int]] = lambda: (0, 0),
) -> tuple[tuple[Size, Size], ...]:
    """Return the runs of rows, first row and number, that are left for a prompt of any length.

    The rows are listed for every prompt up to a length from which on nothing new can happen.

    Raises:
        BadPickError: at `span`, if there is no such form, or if no list of prompts is enough.
    """
    longest = _deciding_length(layout, picks, kinds)
    if longest is None or longest > LONGEST:
        help_text = "compare rows of the prompt with small numbers, and by sums, `//` and `%` only"
        message = "no finite number of prompts decides which rows these are"
        raise BadPickError(message, *span(), help_text)
    lengths = range(1, longest + 1)
    listed = [picked_of(layout, n, tuple(picks), tuple(kinds)) for n in lengths]
    counts = [len(rows) for rows in listed]
    if any(count != counts[0] + (counts[1] - counts[0]) * n for n, count in enumerate(counts)):
        raise BadPickError("the number of rows is no simple sum of the prompt's length", *span())
    before, last = _runs(listed[-2]), _runs(listed[-1])
    fitted = tuple(
        (_line(*starts, lengths[-1]), _line(*sizes, lengths[-1]))
        for starts, sizes in (zip(*both, strict=True) for both in zip(before, last, strict=False))
    )
    for length, rows in zip(lengths, listed, strict=True):
        again = [start.at(length) + n for start, count in fitted for n in range(count.at(length))]
        if len(before) != len(last) or again != list(rows):
            message = "the rows chosen are no fixed number of runs in prompts of any length"
            raise BadPickError(message, *span(), "choose rows that follow one another")
    return fitted


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first row and the number of each run of rows that follow one another."""
    found: list[tuple[int, int]] = []
    for row in rows:
        if found and row == sum(found[-1]):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((row, 1))
    return found


def _line(before: int, last: int, length: int) -> Size:
    """Return the sum of the prompt's length that has these values one token before, and at it."""
    return Size(last - (last - before) * length, last - before)


def _deciding_length(layout: Layout, picks: Sequence[Pick], kinds: Sequence[str]) -> int | None:
    """Return a length such that prompts up to it show all that can happen; None if there is none.

    Which rows of a segment a predicate takes repeats from some row on, and places count from an
    end of what is left; so the rows left for prompts that are longer by one more period than all
    those numbers together differ from those of a shorter one by as much as every time.
    """
    reach, period = sum(abs(size.fixed) for s in layout.segments for size in s.sizes), 1
    for pick in picks:
        match pick:
            case Where(predicate):
                for segment in layout.segments:
                    found = course(in_segment(predicate, segment, kinds))
                    if found is None:
                        return None
                    reach, period = reach + found.start, lcm(period, found.period)
            case At(index):
                reach += _constant(index)
            case Between(start, stop):
                reach += sum(_constant(bound) for bound in (start, stop) if bound is not None)
    return (reach + 3) * period


def _constant(expr: Expr) -> int:
    return abs(expr.value) if isinstance(expr, Number) and isinstance(expr.value, int) else LONGEST


def in_segment(predicate: Expr, segment: Segment, kinds: Sequence[str]) -> Expr:
    """Return a predicate over rows as one over the row's number in a segment of a single group."""
    facts: dict[str, Value] = {label: number for number, label in enumerate(kinds)}
    facts["kind"] = NO_KIND if segment.kind is None else facts[segment.kind]
    return fold(predicate, {**facts, "group": 0, "masked": not segment.tokens})
