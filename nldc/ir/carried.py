"""Carried Counts: what they begin as, what `next` makes of them, and the bounds that hold both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nldc.expr import MAX_INTEGER, Expr, ExprError, Number, Ref, references
from nldc.ir.facts import row_kinds
from nldc.ir.ops import Node, Reckon, Value
from nldc.ir.ranges import Range, TooLargeError, UndecidedError, evaluate_range
from nldc.ir.reader import BAD_SIZE, WRONG_TYPE, Reader
from nldc.ir.scope import Resolver, Scope
from nldc.ir.types import Count, Unknown
from nldc.ir.words import COUNT
from nldc.schema import CarriedCount
from nldc.shape import fit
from nldc.source import Path

BAD_NAME = "NLD018"
TOO_LARGE = "NLD037"
NO_BOUNDS = "NLD084"
MOST_PASSES = 8
"""How often bounds that are left out may grow before they are taken not to stop."""


def is_count(data: Any) -> bool:
    """Whether a carried value is written as a Count: a whole number, or a mapping with `start`."""
    return isinstance(data, Mapping) or (isinstance(data, int) and not isinstance(data, bool))


@dataclass
class CarriedCounts:
    """Reads the carried Counts of a file; mistakes are added to the reader's.

    `known` are bounds that were found for those that leave them out. `made` is the hull of all that
    the steps make of each, None where nothing bounds it; `open` are those with a bound left out,
    `broken` those with a mistake.
    """

    reader: Reader
    known: Mapping[str, Count] = field(default_factory=dict)
    types: dict[str, Count] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    made: dict[str, Range | None] = field(default_factory=dict)
    open: dict[str, CarriedCount] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    def begin(self, name: str, data: Any, scope: Scope) -> Node | None:
        """Return the node of the prefill that a Count begins as, or None after a mistake."""
        made = self._begin(name, data, scope)
        if made is None:
            self.broken.add(name)
        return made

    def _begin(self, name: str, data: Any, scope: Scope) -> Node | None:
        reader, path = self.reader, ("carry", name)
        if not may_name_count(reader, path, name):
            return None
        if isinstance(data, Mapping):
            model = fit(reader.source, path, CarriedCount, reader.found, f"the Count `{name}`")
        else:
            model = CarriedCount(start=data)
        if model is None:
            return None
        whole = isinstance(data, Mapping)
        start = reader.whole((*path, "start") if whole else path, model.start, low=0)
        low = high = None
        if model.min is not None:
            low = reader.whole((*path, "min"), model.min, low=0)
        if model.max is not None:
            high = reader.whole((*path, "max"), model.max, low=0)
        is_wrong = (model.min is not None and low is None) or (
            model.max is not None and high is None
        )
        if start is None or is_wrong:
            return None
        found = self.known.get(name, Count(start, start))
        low, high = found.low if low is None else low, found.high if high is None else high
        if not low <= start <= high:
            reader.error(
                BAD_SIZE, f"`{name}` begins as {start}, which is not between {low} and {high}",
                (*path, "start"), "outside its own bounds",
            )  # fmt: skip
            return None
        if model.min is None or model.max is None:
            self.open[name] = model
        self.types[name], self.starts[name] = Count(low, high), start
        span = reader.source.span(path)
        op = Reckon(Number(start), (), low, high)
        return Node(f"prefill.{scope.allot(f'start_{name}')}", op, self.types[name], span)

    def next(self, path: Path, name: str, text: Any, scope: Scope, prefix: str) -> Node | None:
        """Return the node that makes the next value of a Count, or None after a mistake."""
        reader, type_ = self.reader, self.types[name]
        if isinstance(text, list):
            reader.error(
                WRONG_TYPE, f"`{name}` is {type_}, and becomes a list", path,
                "a whole number of counts and params",
            )  # fmt: skip
            return None
        expr = reader.expression(path, text)
        terms = None if expr is None else self._terms(path, expr, scope)
        if expr is None or terms is None:
            self.made[name] = None
            return None
        kinds = row_kinds((), (), {**reader.params, **dict.fromkeys(terms, 1)})
        printed = reader.printed(path, expr) if reader.is_number(path, expr, kinds) else None
        if printed is None:
            self.made[name] = None
            return None
        self._grow(path, name, printed, {key: count for key, (_, count) in terms.items()})
        values = tuple((key, value) for key, (value, _) in terms.items())
        op = Reckon(printed, values, type_.low, type_.high)
        full = f"{prefix}.{scope.allot(f'next_{name}')}"
        return Node(full, op, type_, reader.source.span(path))

    def _terms(self, path: Path, expr: Expr, scope: Scope) -> dict[str, tuple[Value, Count]] | None:
        """Return the Counts that an expression names, or None after a mistake."""
        reader = self.reader
        resolver = Resolver(scope, reader.params, reader.kinds)
        found: dict[str, tuple[Value, Count]] = {}
        for ref in references(expr):
            name = ref.dotted
            if name in reader.params or name in found:
                continue
            span = reader.source.inside(path, ref.start, ref.end)
            try:
                value, type_ = resolver.resolve(ref, span)
            except ExprError as problem:
                reader.expression_error(path, problem)
                return None
            if isinstance(type_, Unknown):
                return None
            if not isinstance(type_, Count) or name is None:
                text = ref.dotted or ref.root
                hint = f"`{text}.rows` and `{text}.matches` are Counts of an accept"
                reader.error(
                    WRONG_TYPE, f"`{text}` is {type_}, and a Count is made of Counts", path,
                    f"this is {type_}", help_text=hint if "Accepted" in str(type_) else None,
                )  # fmt: skip
                return None
            found[name] = value, type_
        return found

    def _grow(self, path: Path, name: str, expr: Expr, counts: Mapping[str, Count]) -> None:
        """Let the hull of what the steps make of a Count hold what this expression may be."""

        def lookup(ref: Ref) -> Range | None:
            count = counts.get(ref.dotted or "")
            return None if count is None else Range(count.low, count.high)

        if self.made.get(name, Range(0, 0)) is None:
            return
        try:
            new = evaluate_range(expr, lookup)
        except UndecidedError as problem:
            self.made[name] = None
            if isinstance(problem, TooLargeError):
                help_text = "keep what is computed below 2**31 for all that the Counts may be"
                message = f"what `{name}` becomes may be too large"
                self.reader.error(TOO_LARGE, message, path, "here", help_text=help_text)
            return
        old = self.made.get(name) or new
        self.made[name] = Range(min(old.low, new.low), max(old.high, new.high))

    def wider(self) -> Mapping[str, Count] | None:
        """Return wider bounds for those that leave one out, or None if these are wide enough."""
        found: dict[str, Count] = {}
        for name, model in self.open.items():
            made, type_ = self.made.get(name), self.types[name]
            made = Range(type_.low, type_.high) if made is None else made
            low = type_.low if model.min is not None else min(type_.low, max(0, int(made.low)))
            high = type_.high if model.max is not None else max(type_.high, int(made.high))
            found[name] = Count(low, min(high, MAX_INTEGER))
        return found if any(found[name] != self.types[name] for name in found) else None

    def unbounded(self) -> None:
        """Add that bounds which were left out do not stop growing."""
        for name in self.open:
            self.reader.error(
                NO_BOUNDS, f"what `{name}` may be is not known", ("carry", name),
                "the steps make it larger and larger", True,
                help_text=f"say it: carry: {{{name}: {{start: {self.starts[name]}, min: 1, "
                "max: 16}}",
            )  # fmt: skip


def may_name_count(reader: Reader, path: Path, name: str) -> bool:
    """Whether a Count may be called so, or add that expressions could not tell what is meant."""
    if name in reader.params or name in reader.kinds or name in COUNT:
        what = "a param" if name in reader.params else "a kind of rows"
        what = "a fact that rules and predicates ask" if name in COUNT else what
        reader.error(BAD_NAME, f"`{name}` is both a Count and {what}", path, "rename one", True)
        return False
    return True
