"""The prompt lengths that decide a prefill for all lengths.

Predicates of the prefill compare rows of the prompt. As long as each comparison is of two sums with
at most one row fact a side, up to constants and remainders, a wrong pair of rows is also found in a
prompt not much longer than those constants. For anything else no finite list is enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm

from nldc.expr import (
    And,
    Binary,
    Boolean,
    Compare,
    Expr,
    Not,
    Number,
    Or,
    Ref,
    Selector,
    Unary,
    children,
)
from nldc.ir.graph import Graph, uses, walk
from nldc.ir.ops import At, Between, Forward, Where
from nldc.ir.picks import PROBES

MOST = 64
"""The longest prompt that is tried."""


def prompt_lengths(graph: Graph) -> tuple[int, ...] | None:
    """Return the lengths at which the prefill has to be checked; None if no list is enough.

    A wrong pair of rows divides the prompt into three gaps, and each that is longer than every
    constant plus the common period can be shortened by the period without a change of any truth.
    """
    constants, period = 0, 1
    for expr in _expressions(graph):
        if not _is_simple(expr):
            return None
        scale = max(_quotients(expr), default=1)
        constants += sum(abs(number) for number in _numbers(expr)) * scale
        period = lcm(period, *_divisors(expr))
    most = 3 * (constants + period) + 2
    if most > MOST:
        return None
    return tuple(sorted({*PROBES, *range(1, most + 1)}))


def _expressions(graph: Graph) -> Iterator[Expr]:
    """Yield what the prefill asks of rows whose number depends on the prompt."""
    for node in walk(graph.prefill.nodes):
        op = node.op
        if isinstance(op, Forward) and op.layout.dynamic:
            yield from (op.attention.predicate, op.position, op.append, op.predicts_next)
            yield op.adapter_rows
        for value in uses(op):
            for pick in value.picks:
                match pick:
                    case Where(expr) | At(expr):
                        yield expr
                    case Between(start, stop):
                        yield from (bound for bound in (start, stop) if bound is not None)


def _is_simple(expr: Expr) -> bool:
    match expr:
        case Number(value):
            return isinstance(value, int)
        case Boolean() | Ref():
            return True
        case Not(operand):
            return _is_simple(operand)
        case And(terms) | Or(terms):
            return all(_is_simple(term) for term in terms)
        case Compare(_, left, right):
            return _is_simple(left) and _is_simple(right) and not _mixes(left, right)
        case Unary(_, operand):
            return isinstance(operand, Number) and _is_simple(operand)
        case Binary("+" | "-", left, right):
            # A row fact and a constant; a difference of two row facts is a comparison of them.
            return _is_simple(left) and isinstance(right, Number) and _is_simple(right)
        case Binary("//" | "%", left, right):
            fits = isinstance(right, Number) and isinstance(right.value, int) and right.value != 0
            return _is_simple(left) and fits
        case _:
            return False


def _mixes(left: Expr, right: Expr) -> bool:
    """Whether the sides scale rows differently: a quotient against something that is none."""
    scaled = [{*_quotients(side)} for side in (left, right)]
    constant = [not list(_references(side)) for side in (left, right)]
    return scaled[0] != scaled[1] and not any(constant)


def _quotients(expr: Expr | Selector) -> Iterator[int]:
    if isinstance(expr, Binary) and expr.op == "//" and isinstance(expr.right, Number):
        yield abs(int(expr.right.value))
    for part in children(expr):
        yield from _quotients(part)


def _divisors(expr: Expr | Selector) -> Iterator[int]:
    if isinstance(expr, Binary) and expr.op in ("//", "%") and isinstance(expr.right, Number):
        yield abs(int(expr.right.value)) or 1
    for part in children(expr):
        yield from _divisors(part)


def _numbers(expr: Expr | Selector) -> Iterator[int]:
    if isinstance(expr, Number):
        yield int(expr.value)
    for part in children(expr):
        yield from _numbers(part)


def _references(expr: Expr | Selector) -> Iterator[Ref]:
    if isinstance(expr, Ref):
        yield expr
    for part in children(expr):
        yield from _references(part)
