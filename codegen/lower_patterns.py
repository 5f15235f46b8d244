"""From the attention of forwards to the patterns of a program: one for each predicate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from nldc.codegen.names import Scope
from nldc.codegen.ordered import Ordered
from nldc.codegen.program import Origin, Pattern
from nldc.expr import Compare, Expr, Ref, fold, show
from nldc.ir.facts import LONGEST_CONTEXT, facts_of, pair_ranges, prefix_ranges
from nldc.ir.ops import Attention
from nldc.ir.ranges import Range, UndecidedError, evaluate_range

DIGITS = 16
"""How much of a predicate's digest the name of its kernel's module has."""
SEQUENCE = ("row", "index", "position")
"""The facts that all number the rows of a sequential layout, and are negative for the prefix."""


class Patterns:
    """The patterns of a program, which grow as forwards ask for them."""

    def __init__(self, scope: Scope, kinds: Sequence[str]) -> None:
        self._scope = scope
        self._kinds = kinds
        self._known: dict[tuple[str, bool], Pattern] = {}

    def of(self, attention: Attention, rows: Ordered, wanted: str, origin: Origin) -> Pattern:
        """Return the pattern of a forward; `wanted` names it if the file does not."""
        numbers = {kind: number for number, kind in enumerate(self._kinds)}
        predicate = fold(attention.predicate, numbers)
        sees = _sees_prefix(predicate, rows)
        key = (show(predicate), sees)
        if key not in self._known:
            name = self._scope.allot((attention.name or wanted).upper())
            function, loader = self._scope.allot_all(
                (f"{name.lower()}_sees", f"{name.lower()}_kernel")
            )
            self._known[key] = Pattern(
                name=name,
                function=function,
                loader=loader,
                kernel=f"kernel_{hashlib.sha256(key[0].encode()).hexdigest()[:DIGITS]}",
                predicate=predicate,
                text=show(attention.predicate),
                sees_prefix=sees,
                looks_back=sees and _looks_back(predicate),
                origin=origin,
            )
        return self._known[key]

    @property
    def all(self) -> tuple[Pattern, ...]:
        """The patterns, in order of first use."""
        return tuple(self._known.values())


def _looks_back(predicate: Expr) -> bool:
    """Whether a row of a sequential layout sees, of its rows, itself and those before it.

    Said only of what is written as the causal predicate is: one number of a key against one of
    the query's.
    """
    match predicate:
        case Compare("<=", Ref() as key, Ref() as query) | Compare(
            ">=", Ref() as query, Ref() as key
        ):
            sides = (key.parts, query.parts)
        case _:
            return False
    return all(
        len(parts) == 2 and parts[0] == side and parts[1] in SEQUENCE
        for side, parts in zip("kq", sides, strict=True)
    )


def _sees_prefix(predicate: Expr, rows: Ordered) -> bool:
    """Whether every row sees every cached row, however many those are, for every prompt."""
    key = prefix_ranges(Range(-LONGEST_CONTEXT, -1))
    # A prompt in which no segment is empty: each has a row to ask for.
    sizes = [size for segment in rows.forward.layout.segments for size in segment.sizes]
    shown = max(1, *(1 - size.fixed for size in sizes if size.prompts), 1)
    listed = zip(rows.order(shown), rows.facts(shown)["offset"], strict=True)
    for row, offset in listed:
        facts = facts_of(row, rows.kinds, offset)
        query = {name: Range.exactly(int(value)) for name, value in facts.items()}
        if rows.dynamic:
            # A longer prompt has more rows of each kind, further on.
            query |= dict.fromkeys(("row", "index", "position"), Range(0, LONGEST_CONTEXT))
        try:
            found = evaluate_range(predicate, pair_ranges(query, key, ()))
        except UndecidedError:
            return False
        if not found.low:
            return False
    return True
