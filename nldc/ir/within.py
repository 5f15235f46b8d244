"""Numbers that fragments are given, against the bounds of their params."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nldc.diagnostics import Diagnostic, Label
from nldc.expr import ExprError, Value, fold, parse, references
from nldc.ir.by_request import Declared, named, range_of
from nldc.ir.ranges import UndecidedError
from nldc.ir.scope import constant
from nldc.source import Within

GIVEN = "NLD023"


def outside(
    within: tuple[Within, ...],
    params: Mapping[str, Value],
    brought: Declared,
    broken: frozenset[str],
) -> Iterator[Diagnostic]:
    """Yield what is wrong with the numbers, for these params and all that requests may bring.

    Of `broken` params it is said elsewhere what is wrong.
    """
    for asked in within:
        label = _wrong(asked, params, brought, broken)
        if label is not None:
            message = f"{asked.what} cannot be `{asked.expression}`"
            yield Diagnostic(GIVEN, "error", message, (Label(asked.span, label),))


def _wrong(
    asked: Within, params: Mapping[str, Value], brought: Declared, broken: frozenset[str]
) -> str | None:
    try:
        expr = parse(asked.expression)
        if any(ref.root in broken for ref in references(expr)):
            return None
        value = constant(expr, params)
    except ExprError as problem:
        return problem.message
    if isinstance(value, bool):
        return "a condition, and no number"
    if asked.whole and not isinstance(value, int):
        return f"this is {value}, and no whole number"
    if not asked.low <= value <= asked.high:
        return f"this is {value}, which is not between {asked.low} and {asked.high}"
    if not any(named(expr, brought)):
        return None
    try:
        found = range_of(fold(expr, {n: v for n, v in params.items() if n not in brought}), brought)
    except UndecidedError as problem:
        return str(problem)
    if asked.low <= found.low and found.high <= asked.high:
        return None
    bounds = f"{asked.low} and {asked.high}"
    return f"requests may make it {found.low} to {found.high}, and it is to be between {bounds}"
