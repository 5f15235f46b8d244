"""Params that are no part of what is compiled: each request brings its values, within bounds.

A graph keeps such a param as a name in its rules, so that nothing that reads the rules can take the
default for the value; `fixed` gives the graph that one value would have been compiled to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

from nldc.diagnostics import Span
from nldc.expr import Expr, Ref, fold, references
from nldc.expr import Number as Folded
from nldc.expr import Value as Number
from nldc.ir.layout import Layout
from nldc.ir.ops import Mix
from nldc.ir.ranges import Range, UndecidedError, evaluate_range

T = TypeVar("T")
COMPILED = "NLD039"
"""The code of a param of requests in what is fixed before there is any request."""


@dataclass(frozen=True)
class RuntimeParam:
    """A param that a request may set, from `low` to `high`; `default` is for who does not."""

    type: Literal["int", "float"]
    default: int | float
    low: int | float
    high: int | float
    help: str = ""

    @property
    def range(self) -> Range:
        """All values that it may have."""
        return Range(self.low, self.high)


Declared = Mapping[str, RuntimeParam]
NONE: Declared = {}


def named(expr: Expr | None, declared: Declared) -> Iterator[Ref]:
    """Yield the places of an expression that name one of these params."""
    if expr is not None:
        yield from (ref for ref in references(expr) if ref.dotted in declared)


def range_of(expr: Expr, declared: Declared, known: Mapping[str, int] | None = None) -> Range:
    """Return all values that an expression over such params, and known numbers, may have.

    Raises:
        UndecidedError: it may have none.
    """
    return evaluate_range(expr, ranges(declared, known or {}))


def ranges(declared: Declared, known: Mapping[str, int]) -> Callable[[Ref], Range | None]:
    """Return the lookup of what the params and known numbers may be."""

    def lookup(ref: Ref) -> Range | None:
        name = ref.dotted or ""
        if name in known:
            return Range.exactly(known[name])
        return declared[name].range if name in declared else None

    return lookup


def surely(condition: Expr, declared: Declared, known: Mapping[str, int]) -> bool:
    """Whether a condition holds whatever the params are."""
    try:
        return bool(range_of(condition, declared, known).low == 1)
    except UndecidedError:
        return False


def fixed(part: T, values: Mapping[str, Number]) -> T:
    """Return a graph, or a part of one, as it is for these values of its params."""
    found: T = _fixed(part, values) if values else part
    return found


def _fixed(part: Any, values: Mapping[str, Number]) -> Any:
    if isinstance(part, Expr):
        return fold(part, values) if any(ref.dotted in values for ref in references(part)) else part
    if isinstance(part, Mix):
        weights = tuple(_weight(weight, values) for weight in part.weights)
        return replace(part, weights=weights)
    if isinstance(part, tuple):
        return tuple(_fixed(item, values) for item in part)
    if is_dataclass(part) and not isinstance(part, (type, Span, Layout)):
        old = {item.name: getattr(part, item.name) for item in fields(part)}
        new = {name: _fixed(value, values) for name, value in old.items()}
        changed = {name: value for name, value in new.items() if value is not old[name]}
        return replace(part, **changed) if changed else part
    return part


def _weight(weight: float | Expr, values: Mapping[str, Number]) -> float | Expr:
    found = fold(weight, values) if isinstance(weight, Expr) else weight
    return float(found.value) if isinstance(found, Folded) else found
