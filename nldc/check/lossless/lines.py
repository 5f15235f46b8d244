"""Where the truth of a predicate over rows can change: lines through the plane of row and key.

A comparison of sums of row facts changes where the sums meet. For a query row x and a key row y
that is at a row (x or y alone), at a distance (x - y), or near the prompt's start (x + y). Between
such lines a truth depends on remainders alone, so rows on both sides of every line, and as many
more as the remainders' period, stand for all rows: see `alike.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor, lcm
from typing import Literal

from nldc.expr import And, Binary, Boolean, Compare, Expr, Not, Number, Or, Ref, Unary

Variable = Literal["x", "y"]


class UntameError(Exception):
    """The truth may change elsewhere than at such lines: rows are multiplied or stretched."""


@dataclass(frozen=True)
class Sum:
    """A sum of row numbers: its value lies within `low` and `high` of them.

    What lies between repeats after `period` rows.
    """

    of: Mapping[Variable, Fraction]
    low: Fraction
    high: Fraction
    period: int = 1

    def plus(self, other: Sum, sign: int = 1) -> Sum:
        """Return the sum of the two, or their difference."""
        of = {
            v: self.of.get(v, Fraction()) + sign * other.of.get(v, Fraction()) for v in ("x", "y")
        }
        low, high = (other.low, other.high) if sign > 0 else (-other.high, -other.low)
        period = lcm(self.period, other.period)
        return Sum({v: n for v, n in of.items() if n}, self.low + low, self.high + high, period)  # type: ignore[misc]

    def times(self, by: Fraction) -> Sum:
        """Return the sum with everything multiplied."""
        ends = sorted((self.low * by, self.high * by))
        of = {v: n * by for v, n in self.of.items() if n * by}
        return Sum(of, ends[0], ends[1], self.period)


def between(low: int, high: int, of: Variable | None = None) -> Sum:
    """Return a number in that range, added to a row's number if one is given."""
    return Sum({} if of is None else {of: Fraction(1)}, Fraction(low), Fraction(high))


@dataclass
class Lines:
    """The lines of some predicates: rows, distances between rows, and rows near the start.

    `rows` and `distances` are where they lie, `near` how far from the start anything may depend on
    x + y, `width` how wide the widest line is, `period` after how many rows remainders repeat.
    """

    rows: set[int] = field(default_factory=lambda: {0})
    distances: set[int] = field(default_factory=set)
    near: int = 0
    width: int = 0
    period: int = 1

    def add(self, expr: Expr, sum_of: Callable[[Ref], Sum]) -> None:
        """Add the lines of a predicate.

        Raises:
            UntameError: its truth may change elsewhere.
        """
        match expr:
            case Compare(_, left, right) if not (_is_condition(left) or _is_condition(right)):
                self._compare(_sum(left, sum_of).plus(_sum(right, sum_of), -1))
            case Compare(_, left, right):
                self.add(left, sum_of)
                self.add(right, sum_of)
            case Not(operand):
                self.add(operand, sum_of)
            case And(terms) | Or(terms):
                for term in terms:
                    self.add(term, sum_of)
            case _:
                pass  # true, false, or a fact that is one of the two

    def add_number(self, expr: Expr, sum_of: Callable[[Ref], Sum]) -> Sum:
        """Add the period of a number, and return what it is a sum of.

        Raises:
            UntameError: rows are multiplied.
        """
        found = _sum(expr, sum_of)
        self.period = lcm(self.period, found.period)
        return found

    def _compare(self, difference: Sum) -> None:
        self.period = lcm(self.period, difference.period)
        x, y = (difference.of.get(v, Fraction()) for v in ("x", "y"))
        if not x and not y:
            return
        by = x or y
        if x and y and abs(x) != abs(y):
            raise UntameError
        ends = sorted((-difference.low / by, -difference.high / by))
        first, last = floor(ends[0]), ceil(ends[1])
        self.width = max(self.width, last - first)
        if not (x and y):
            self.rows |= {abs(first), abs(last)}
        elif x == -y:
            self.distances |= {abs(first), abs(last)}
        else:
            self.near = max(self.near, last)

    @property
    def margin(self) -> int:
        """How many rows on both sides of a line have to be looked at."""
        return self.period + self.width + 2

    @property
    def crossings(self) -> list[int]:
        """Where lines lie or cross: rows, distances, and rows at a distance from a row."""
        both = {abs(row + s * d) for row in self.rows for d in self.distances for s in (1, -1)}
        return sorted(self.rows | self.distances | both | {self.near})


def _is_condition(expr: Expr) -> bool:
    is_fact = isinstance(expr, Ref) and expr.parts[-1] in ("prefix", "masked")
    return is_fact or isinstance(expr, (Boolean, Compare, Not, And, Or))


def _sum(expr: Expr, sum_of: Callable[[Ref], Sum]) -> Sum:
    match expr:
        case Number(value) if isinstance(value, int):
            return between(value, value)
        case Ref():
            return sum_of(expr)
        case Unary(_, operand):
            return _sum(operand, sum_of).times(Fraction(-1))
        case Binary("+" | "-", left, right):
            sign = 1 if expr.op == "+" else -1
            return _sum(left, sum_of).plus(_sum(right, sum_of), sign)
        case Binary("*", left, right):
            factors = _sum(left, sum_of), _sum(right, sum_of)
            for by, other in (factors, factors[::-1]):
                if not by.of and by.low == by.high:
                    return other.times(by.low)
            if any(factor.of for factor in factors):
                raise UntameError
            ends = [a * b for a in _ends(factors[0]) for b in _ends(factors[1])]
            period = lcm(factors[0].period, factors[1].period)
            return Sum({}, min(ends), max(ends), period)
        case Binary(op, left, Number(by)) if isinstance(by, int) and by != 0:
            inner = _sum(left, sum_of)
            period = inner.period * abs(by)
            if op == "%":
                low, high = min(0, by + 1), max(0, by - 1)
                return Sum({}, Fraction(low), Fraction(high), period)
            whole = inner.times(Fraction(1, by))
            return Sum(whole.of, whole.low - 1, whole.high, period)
        case _:
            raise UntameError


def _ends(found: Sum) -> tuple[Fraction, Fraction]:
    return found.low, found.high
