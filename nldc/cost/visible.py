"""How many pairs of rows a forward's attention weighs: what its predicate lets through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nldc.codegen.program import FixedLayout, Layout, Pattern
from nldc.expr import ExprError, Value, evaluate, references

MOST_CLASSES = 300
"""Rows that differ in what a predicate asks; of more, every row is taken to see every other."""
FACTS = ("kind", "group", "index", "row")
OF_THE_PREFIX = {"kind": -1, "group": -1, "index": -1, "row": -1, "position": -1}
"""The facts of the prefix's last row; positions count from its end."""
Facts = Mapping[str, int | bool]


@dataclass(frozen=True)
class Visible:
    """Of one sequence's rows, those that see the prefix, and pairs of rows among themselves."""

    prefix: int
    own: int


def visible(layout: Layout, pattern: Pattern, rows: int) -> Visible:
    """Count what `rows` rows of a layout see.

    A row that sees the prefix's last row is taken to see all of it.
    """
    if pattern.looks_back:
        return Visible(rows if pattern.sees_prefix else 0, rows * (rows + 1) // 2)
    if not isinstance(layout, FixedLayout):
        return Visible(rows, rows * rows)
    asked = {ref.dotted for ref in references(pattern.predicate)}
    queries, keys = (_classes(layout, side, asked) for side in "qk")
    if max(len(queries), len(keys)) > MOST_CLASSES:
        return Visible(rows, rows * rows)
    last = _named("k", OF_THE_PREFIX, is_prefix=True)
    seen_prefix = own = 0
    for query, times in queries.items():
        facts = dict(query)
        if pattern.sees_prefix or _sees(pattern, {**facts, **last}):
            seen_prefix += times
        own += times * sum(
            count for key, count in keys.items() if _sees(pattern, {**facts, **dict(key)})
        )
    return Visible(seen_prefix, own)


def _classes(
    layout: FixedLayout, side: str, asked: set[str | None]
) -> Counter[tuple[tuple[str, Value], ...]]:
    """Count rows that are alike in what is asked of them."""
    return Counter(
        tuple((name, value) for name, value in facts.items() if name in asked)
        for facts in _facts(layout, side)
    )


def _facts(layout: FixedLayout, side: str) -> Iterator[dict[str, Value]]:
    columns = zip(*(getattr(layout, name) for name in FACTS), layout.offset, strict=True)
    for *numbers, offset in columns:
        facts = dict(zip(FACTS, numbers, strict=True))
        yield _named(side, {**facts, "position": offset}, is_prefix=False)


def _named(side: str, facts: Facts, *, is_prefix: bool) -> dict[str, Value]:
    known = {**facts, "prefix": is_prefix, "prompt": False}
    return {f"{side}.{name}": value for name, value in known.items()}


def _sees(pattern: Pattern, facts: Mapping[str, Value]) -> bool:
    try:
        return bool(evaluate(pattern.predicate, facts))
    except ExprError:
        return True  # what cannot be told is taken to be seen
