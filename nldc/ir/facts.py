"""What predicates and positions may ask of a row, and the values they get.

A row of the cached prefix is no row of the layout: its row, group and index are -1, it has no
kind, and its position counts backwards from the end of the prefix. If it lies at a place of the
prompt, it belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from nldc.diagnostics import nearest
from nldc.expr import (
    Binary,
    Expr,
    ExprError,
    Kind,
    Number,
    Ref,
    Value,
    children,
    evaluate,
    real_part,
    references,
    show,
)
from nldc.ir.layout import Row
from nldc.ir.ranges import Range

V = TypeVar("V")

NUMBERS = ("row", "group", "index", "kind")
ROW_FACTS = (*NUMBERS, "masked")
"""What a predicate over one row may ask: decided when the strategy is compiled."""
QUERY_FACTS = (*NUMBERS, "position")
KEY_FACTS = (*QUERY_FACTS, "prefix", "prompt")
"""What an attention predicate may ask of a key row: decided in the kernel; `prompt` in steps."""
NO_KIND = -1
LONGEST_CONTEXT = 2**24
"""More tokens than any context has, and more rows than any forward: what is decided for every
prefix is decided up to here, and `check/bounds.py` refuses what 32 bits would not hold up to here.
"""


def facts_of(row: Row, kinds: Sequence[str], position: int = 0) -> dict[str, Value]:
    """Return every fact of a row of the layout, by name."""
    return {
        "row": row.row,
        "group": row.group,
        "index": row.index,
        "kind": NO_KIND if row.kind is None else kinds.index(row.kind),
        "masked": row.masked,
        "position": position,
        "prefix": False,
    }


def prefix_facts(position: int = -1, *, prompt: bool = False) -> dict[str, Value]:
    """Return the facts of a cached row that lies `-position` rows before the end of the prefix."""
    facts: dict[str, Value] = dict.fromkeys(NUMBERS, -1)
    return {**facts, "position": position, "prefix": True, "prompt": prompt}


def prefix_ranges(position: Range) -> dict[str, Range]:
    """Return the facts of the cached rows at the given positions, of the prompt or not."""
    facts = {name: Range.exactly(int(value)) for name, value in prefix_facts().items()}
    return {**facts, "position": position, "prompt": Range(0, 1)}


def asks_prompt(predicate: Expr) -> bool:
    """Whether an attention predicate asks which cached rows are the prompt's."""
    return any(ref.dotted == "k.prompt" for ref in references(predicate))


def row_lookup(
    facts: Mapping[str, Value], kinds: Sequence[str], others: Mapping[str, Value]
) -> Callable[[Ref], Value | None]:
    """Return the lookup of a predicate over one row; labels stand for their numbers."""
    return _of_row(facts, {**others, **_numbers(kinds)})


def rows_where(
    rows: Iterable[Row],
    predicate: Expr,
    kinds: Sequence[str],
    others: Mapping[str, Value] | None = None,
) -> tuple[Row, ...]:
    """Return the rows for which a predicate over one row holds; `others` are further names.

    Raises:
        ExprError: the predicate has no value for a row.
    """
    known = others or {}
    return tuple(
        row for row in rows if evaluate(predicate, row_lookup(facts_of(row, kinds), kinds, known))
    )


def row_ranges(
    facts: Mapping[str, Any], kinds: Sequence[str], others: Mapping[str, Value] | None = None
) -> Callable[[Ref], Range | None]:
    """Return the lookup of a predicate over one row, for many rows at once: facts as arrays."""
    numbers = {**(others or {}), **_numbers(kinds)}
    exact = {name: Range.exactly(values) for name, values in facts.items()}
    return _of_row(exact, {name: Range.exactly(int(value)) for name, value in numbers.items()})


def pair_lookup(
    query: Mapping[str, Value], key: Mapping[str, Value], kinds: Sequence[str]
) -> Callable[[Ref], Value | None]:
    """Return the lookup of an attention predicate over a query row and a key row."""
    return _of_pair(query, {"prompt": False, **key}, _numbers(kinds))


def pair_ranges(
    query: Mapping[str, Range], key: Mapping[str, Range], kinds: Sequence[str]
) -> Callable[[Ref], Range | None]:
    """Return the lookup of an attention predicate, for many query rows and many keys at once."""
    own = {"prompt": Range.exactly(0), **key}
    return _of_pair(query, own, {n: Range.exactly(value) for n, value in _numbers(kinds).items()})


def _numbers(kinds: Sequence[str]) -> dict[str, int]:
    """Return what labels stand for."""
    return {kind: number for number, kind in enumerate(kinds)}


def _of_row(facts: Mapping[str, V], others: Mapping[str, V]) -> Callable[[Ref], V | None]:
    def lookup(ref: Ref) -> V | None:
        name = ref.dotted
        if name is None:
            return None
        return facts[name] if name in facts else others.get(name)

    return lookup


def _of_pair(
    query: Mapping[str, V], key: Mapping[str, V], labels: Mapping[str, V]
) -> Callable[[Ref], V | None]:
    def lookup(ref: Ref) -> V | None:
        match ref.parts:
            case ("q", fact):
                return query.get(fact)
            case ("k", fact):
                return key.get(fact)
            case (label,):
                return labels.get(label)
        return None

    return lookup


def row_kinds(
    facts: Sequence[str], labels: Sequence[str], numbers: Mapping[str, Value]
) -> Callable[[Ref], Kind]:
    """Return the kinds of the names in a predicate over one row; unknown names raise ExprError."""

    def kinds(ref: Ref) -> Kind:
        name = ref.dotted
        if name == "masked" and name in facts:
            return "bool"
        if name in labels or (name == "kind" and name in facts):
            return "label"
        if name in facts:
            return "int"
        if name is not None and name in numbers:
            return "float" if isinstance(numbers[name], float) else "int"
        raise unknown(ref, (*facts, *labels, *numbers))

    return kinds


def pair_kinds(
    labels: Sequence[str], numbers: Mapping[str, Value], *, step: bool
) -> Callable[[Ref], Kind]:
    """Return the kinds of the names in an attention predicate, of a `step` or of the prefill.

    Unknown names raise ExprError.
    """
    names = [*(f"q.{fact}" for fact in QUERY_FACTS), *(f"k.{fact}" for fact in KEY_FACTS)]

    def kinds(ref: Ref) -> Kind:
        name = ref.dotted
        if name == "k.prompt" and not step:
            raise UnknownNameError(
                "`k.prompt` means nothing in a prefill", ref.start, ref.end,
                "the prompt's rows are computed there: ask it in a step, where they are cached",
            )  # fmt: skip
        if name in ("k.prefix", "k.prompt"):
            return "bool"
        if name in labels or name in ("q.kind", "k.kind"):
            return "label"
        if name in names:
            return "int"
        if name is not None and name in numbers:
            return "float" if isinstance(numbers[name], float) else "int"
        raise unknown(ref, (*names, *labels, *numbers))

    return kinds


def check_divisors(expr: Expr) -> None:
    """Check an expression that is printed, or asked of rows that cannot be listed.

    Raises:
        ExprError: at a divisor that is no number other than 0, which nobody could refuse later.
    """
    for part in children(expr):
        if isinstance(part, Expr):
            check_divisors(part)
    if isinstance(expr, Binary) and expr.op in ("//", "%"):
        by = expr.right
        if not isinstance(by, Number) or not by.value:
            raise ExprError(
                f"the divisor `{show(by)}` is no number other than 0", by.start, by.end,
                "divide by numbers and params: what divides here may be 0 when a step runs",
            )  # fmt: skip


class UnknownNameError(ExprError):
    """A name that means nothing where it stands."""


class RealNumberError(ExprError):
    """A real number where rows are counted."""


def check_whole(expr: Expr, kinds: Callable[[Ref], Kind], beside: str | None = None) -> None:
    """Check that rows and rounds are counted in whole numbers, but beside scores.

    Raises:
        RealNumberError: at a number that is not whole.
    """
    part = real_part(expr, kinds, beside)
    if part is not None:
        raise RealNumberError(
            f"`{show(part)}` is a real number where rows are counted",
            part.start,
            part.end,
            "write it in whole numbers: `row > 3` for `row * 0.1 > 0.3`",
        )


class BadPickError(ExprError):
    """A choice of rows that cannot be made."""


def unknown(ref: Ref, known: Sequence[str]) -> UnknownNameError:
    """Return the error for a name that means nothing here, with the nearest that does."""
    name = ref.dotted or ref.root
    meant = nearest(name, known)
    help_text = f"did you mean `{meant}`?" if meant else f"known here: {', '.join(known)}"
    return UnknownNameError(f"`{name}` means nothing here", ref.start, ref.end, help_text)
