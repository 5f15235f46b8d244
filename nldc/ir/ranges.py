"""Evaluate an expression over ranges of numbers: exact where each range is one number.

Every name has a lowest and a highest value, as numbers or as numpy arrays that broadcast. The
result's range holds every value that the expression can have; a condition's range is of 0 and 1.
This is how a predicate is decided for all rows of a cached prefix at once, however long it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nldc.expr import (
    MAX_INTEGER,
    And,
    Binary,
    Boolean,
    Compare,
    Expr,
    Not,
    Number,
    Or,
    Ref,
    Unary,
)


class UndecidedError(Exception):
    """The expression may have no value: a name without one, a zero divisor, a huge number."""


class TooLargeError(UndecidedError):
    """The expression may have a value that 32 bits do not hold."""


@dataclass(frozen=True)
class Range:
    """The lowest and the highest value, each a number or an array."""

    low: Any
    high: Any

    @staticmethod
    def exactly(value: Any) -> Range:
        """Return the range of one value."""
        return Range(value, value)


def evaluate_range(expr: Expr, lookup: Callable[[Ref], Range | None]) -> Range:
    """Return the range of the expression.

    Raises:
        UndecidedError: for some value in the ranges it may have none.
    """
    match expr:
        case Number(value) | Boolean(value):
            return Range.exactly(int(value) if isinstance(value, bool) else value)
        case Ref():
            found = lookup(expr)
            if found is None:
                raise UndecidedError(f"`{expr.root}` has no value")
            return found
        case Unary(_, operand):
            inner = evaluate_range(operand, lookup)
            return Range(-inner.high, -inner.low)
        case Binary():
            return _bounded(_arithmetic(expr, lookup))
        case Compare():
            left, right = evaluate_range(expr.left, lookup), evaluate_range(expr.right, lookup)
            return _compare(expr.op, left, right)
        case Not(operand):
            inner = evaluate_range(operand, lookup)
            return Range(1 - inner.high, 1 - inner.low)
        case And(terms):
            return _fold_terms([evaluate_range(term, lookup) for term in terms], np.minimum)
        case Or(terms):
            return _fold_terms([evaluate_range(term, lookup) for term in terms], np.maximum)


def _fold_terms(terms: list[Range], choose: Callable[[Any, Any], Any]) -> Range:
    result = terms[0]
    for term in terms[1:]:
        result = Range(choose(result.low, term.low), choose(result.high, term.high))
    return result


def _arithmetic(expr: Binary, lookup: Callable[[Ref], Range | None]) -> Range:
    left, right = evaluate_range(expr.left, lookup), evaluate_range(expr.right, lookup)
    if expr.op == "+":
        return Range(left.low + right.low, left.high + right.high)
    if expr.op == "-":
        return Range(left.low - right.high, left.high - right.low)
    if expr.op == "*":
        return _corners(left, right, np.multiply)
    if np.any((np.asarray(right.low) <= 0) & (np.asarray(right.high) >= 0)):
        raise UndecidedError("a divisor may be 0")
    if expr.op == "//":
        return _corners(left, right, np.floor_divide)
    return _remainder(left, right)


def _corners(left: Range, right: Range, by: Callable[[Any, Any], Any]) -> Range:
    values = [by(a, b) for a in (left.low, left.high) for b in (right.low, right.high)]
    low, high = values[0], values[0]
    for value in values[1:]:
        low, high = np.minimum(low, value), np.maximum(high, value)
    return Range(low, high)


def _remainder(left: Range, right: Range) -> Range:
    """Exact where both are one number, else anything that a remainder can be."""
    exact = (np.equal(left.low, left.high)) & (np.equal(right.low, right.high))
    value = np.remainder(left.low, right.low)
    low = np.minimum(0, right.low + 1)
    high = np.maximum(0, right.high - 1)
    return Range(np.where(exact, value, low), np.where(exact, value, high))


def _bounded(found: Range) -> Range:
    if np.any(np.asarray(found.low) < -MAX_INTEGER) or np.any(np.asarray(found.high) > MAX_INTEGER):
        raise TooLargeError("a number may be too large")
    return found


def _compare(op: str, left: Range, right: Range) -> Range:
    match op:
        case "<":
            return Range(_less(left.high, right.low), _less(left.low, right.high))
        case "<=":
            return Range(1 - _less(right.low, left.high), 1 - _less(right.high, left.low))
        case ">":
            return _compare("<", right, left)
        case ">=":
            return _compare("<=", right, left)
        case "==":
            return _equal(left, right)
        case _:
            same = _equal(left, right)
            return Range(1 - same.high, 1 - same.low)


def _less(first: Any, second: Any) -> Any:
    return np.less(first, second).astype(np.int64)


def _equal(left: Range, right: Range) -> Range:
    one = np.equal(left.low, left.high) & np.equal(right.low, right.high)
    surely = one & np.equal(left.low, right.low)
    overlap = np.less_equal(left.low, right.high) & np.less_equal(right.low, left.high)
    return Range(surely.astype(np.int64), overlap.astype(np.int64))
