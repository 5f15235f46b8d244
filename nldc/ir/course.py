"""How an expression over a row's number goes on for ever: what makes a finite list of rows a proof.

The prompt's rows have no last number, so that what is asked of them cannot be listed. But whole
numbers that are made of the row's by sums, differences, multiples, `//` and `%` repeat, up to a
rise, and comparisons of them repeat exactly, from some row on.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from nldc.expr import (
    And,
    Binary,
    Boolean,
    Compare,
    Expr,
    ExprError,
    Not,
    Number,
    Or,
    Ref,
    Unary,
    evaluate,
)

MOST_ROWS = 4096
"""The most rows that are looked at before an expression counts as one that does not repeat."""

ROW = ("row", "index")
"""Both are the row's number where rows depend on the prompt: those have one group."""


@dataclass(frozen=True)
class Course:
    """From row `start` on, the value `period` rows later is higher by `rise`."""

    start: int
    period: int
    rise: int

    @property
    def reach(self) -> int:
        """The number of rows after which nothing new happens."""
        return self.start + self.period


def at_row(expr: Expr, row: int) -> int:
    """Return the value of an expression over a row's number; a condition's is 0 or 1.

    Raises:
        ExprError: it has none there.
    """
    return int(evaluate(expr, lambda ref: row if ref.dotted in ROW else None))


def course(expr: Expr) -> Course | None:
    """Return how the expression goes on, or None where no list of rows can tell."""
    try:
        found = _course(expr)
    except ExprError:
        return None
    return found if found is not None and found.reach <= MOST_ROWS else None


def _course(expr: Expr) -> Course | None:
    match expr:
        case Number(value):
            return Course(0, 1, 0) if isinstance(value, int) else None
        case Boolean():
            return Course(0, 1, 0)
        case Ref():
            return Course(0, 1, 1) if expr.dotted in ROW else None
        case Unary(_, operand):
            inner = course(operand)
            return None if inner is None else Course(inner.start, inner.period, -inner.rise)
        case Binary():
            return _arithmetic(expr)
        case Compare():
            return _comparison(expr)
        case Not(operand):
            return course(operand)
        case And(terms) | Or(terms):
            found = _together(*terms)
            return None if found is None else Course(found[0], found[1], 0)


def _arithmetic(expr: Binary) -> Course | None:
    both = _together(expr.left, expr.right)
    if both is None:
        return None
    start, period, (left, right) = both
    match expr.op:
        case "+":
            return Course(start, period, left + right)
        case "-":
            return Course(start, period, left - right)
        case "*":
            if isinstance(expr.right, Number):
                return Course(start, period, left * int(expr.right.value))
            if isinstance(expr.left, Number):
                return Course(start, period, right * int(expr.left.value))
            return Course(start, period, 0) if not left and not right else None
    if not isinstance(expr.right, Number) or not expr.right.value:
        return None
    by = int(expr.right.value)
    period *= abs(by)
    if expr.op == "%":
        return Course(start, period, 0)
    return Course(start, period, left * abs(by) // by)


def _comparison(expr: Compare) -> Course | None:
    both = _together(expr.left, expr.right)
    if both is None:
        return None
    start, period, (left, right) = both
    rise = left - right
    if not rise or start + period > MOST_ROWS:
        return Course(start, period, 0)
    # One side is ahead for good once the rise has made up for the largest distance.
    distance = max(
        abs(at_row(expr.left, row) - at_row(expr.right, row))
        for row in range(start, start + period)
    )
    return Course(start + period * (distance // abs(rise) + 1), period, 0)


def _together(*parts: Expr) -> tuple[int, int, tuple[int, ...]] | None:
    """Return from where on parts repeat together, how often, and by how much each rises then."""
    found = [course(part) for part in parts]
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return None
    period = lcm(*(each.period for each in known))
    rises = tuple(each.rise * (period // each.period) for each in known)
    return max(each.start for each in known), period, rises
