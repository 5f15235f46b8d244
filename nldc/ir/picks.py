"""Choices of rows, decided by listing: `both.mask[group == kept.rows - 1]`, `draft[1:]`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nldc.expr import Expr, Value, evaluate
from nldc.ir.facts import BadPickError, facts_of, row_lookup
from nldc.ir.layout import Layout, Row
from nldc.ir.ops import At, Between, OfKind, Pick, Where
from nldc.ir.size import Size

PROBES = (1, 2, 3, 5)
"""Prompt lengths at which a choice that depends on the prompt is listed to find its size."""


def picked(
    rows: Sequence[Row], picks: Sequence[Pick], kinds: Sequence[str], others: Mapping[str, Value]
) -> tuple[int, ...]:
    """Return the numbers of the rows that are left after each pick in turn.

    Raises:
        BadPickError: an index lies outside.
        ExprError: a predicate has no value.
    """
    left = tuple(rows)
    for pick in picks:
        match pick:
            case OfKind(kind):
                left = tuple(row for row in left if row.kind == kind)
            case Where(predicate):
                left = tuple(
                    row
                    for row in left
                    if evaluate(predicate, row_lookup(facts_of(row, kinds), kinds, others))
                )
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
    return tuple(row.row for row in left)


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
            length.
    """
    lengths = PROBES if layout.dynamic else (0,)
    found = [
        {len(picked(layout.rows(length), picks, kinds, env)) for env in others}
        for length in lengths
    ]
    if any(len(sizes) > 1 for sizes in found):
        low, high = min(min(s) for s in found), max(max(s) for s in found)
        raise BadPickError(
            f"the number of rows varies with the count, from {low} to {high}",
            *span(),
            "choose the same number of rows for every count",
        )
    sizes = [next(iter(s)) for s in found]
    if len(sizes) == 1:
        return Size(sizes[0])
    slope = sizes[1] - sizes[0]
    if any(s != sizes[0] + slope * (n - lengths[0]) for s, n in zip(sizes, lengths, strict=True)):
        raise BadPickError("the number of rows is no simple sum of the prompt's length", *span())
    return Size(sizes[0] - slope * lengths[0], slope)
