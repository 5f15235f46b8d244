"""Whether a loop surely fills every masked row, however unsure the model is of them.

A bound on the masked rows that are left is followed round by round. It holds for every number of
rows that may be left, because a rule may take fewer of few rows than of many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nldc.check.lossless.held import HeldRows
from nldc.expr import Boolean, Expr, ExprError, Number, Ref, children, evaluate, fold, references
from nldc.ir.by_request import NONE, Declared, named, range_of, surely
from nldc.ir.effects import sure_number, takes_all
from nldc.ir.ops import Fill, Node, Repeat, Select, Value
from nldc.ir.ranges import UndecidedError

MOST_WORK = 50_000
"""More combinations of a round and a number of rows than this are not looked at."""


class _TooMuchError(Exception):
    """There is more to look at than is sensible."""


def fills_all(
    loop: Repeat,
    variable: str,
    masks: range,
    values: Mapping[str, Any],
    after: HeldRows,
    declared: Declared = NONE,
) -> bool:
    """Whether `at_most` rounds fill any such number of masked rows, each as few as it may.

    `variable` names the rows as a round begins, `values` what a round makes of them, and `after`
    the rows that it ends with. `declared` are the params that requests bring, each as it is worst.
    """
    if all(masked is False for masked in after.masked):
        return True
    if after.ended and loop.eos != "ignored" and loop.eos_ids == "all":
        return True  # an EOS stands before what is still masked
    if variable not in after.within:
        return False  # rows that were filled may be masked again
    rounds = _Rounds(loop, variable, values, declared)
    try:
        return rounds.fill(masks)
    except _TooMuchError:
        return False


@dataclass
class _Rounds:
    """The rounds of a loop whose rows are filled one after another, and never masked again."""

    loop: Repeat
    variable: str
    values: Mapping[str, Any]
    declared: Declared
    work: int = 0
    _known: dict[tuple[str, int | None, int | None], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes: dict[str, Node] = {node.name: node for node in self.loop.body.nodes}
        self.selects = {n: node.op for n, node in nodes.items() if isinstance(node.op, Select)}
        self.depends = {name: _depends(select) for name, select in self.selects.items()}
        self.start, self.steps = self.loop.result.node, list[tuple[str, Fill]]()
        while self.start in nodes and isinstance(fill := nodes[self.start].op, Fill):
            self.steps.insert(0, (self.start, fill))
            self.start = fill.rows.node

    def fill(self, masks: range) -> bool:
        """Whether any such number of masked rows is filled."""
        counted = any("iteration" in depends for depends in self.depends.values())
        exact = self._exact()
        left = tuple(masks)
        for iteration in range(self.loop.at_most):
            if left[-1] == 0:
                return True
            before, left = left, self._next(iteration if counted else 0, left, exact=exact)
            if left == before and not counted:
                return False
        return left[-1] == 0

    def _next(self, iteration: int, left: tuple[int, ...], *, exact: bool) -> tuple[int, ...]:
        """Return the numbers of rows that a round may leave of any of these, in order."""
        if exact:
            return tuple(sorted({self._left(iteration, count) for count in left}))
        return tuple(range(max(self._left(iteration, c) for c in self._counts(left)) + 1))

    def _counts(self, left: Sequence[int]) -> Sequence[int]:
        """Return the numbers of rows to ask about: a fixed number of more rows leaves more."""
        alike = not any("left" in depends for depends in self.depends.values())
        return left[-1:] if alike else left

    def _exact(self) -> bool:
        """Whether a round's only fill takes as many rows as a rule says, and never more.

        Copies of an EOS fill any number of rows more.
        """
        if len(self.steps) != 1 or self.start != self.variable or self.loop.eos == "fills":
            return False
        where = self.steps[0][1].where
        select = None if where.picks else self.selects.get(where.node)
        if select is None or select.among.node != self.variable:
            return False
        more = (select.at_least, select.at_most, select.within, select.where)
        rules = [rule for rule in (select.best, select.always_best) if rule is not None]
        known = not any(any(named(rule, self.declared)) for rule in rules)
        return not any(more) and known and all(map(_is_whole, rules))

    def _left(self, iteration: int, masks: int) -> int:
        """Return how many of exactly so many masked rows a round leaves at the most."""
        self._work()
        left, most, last = masks, {self.start: masks}, self.start
        for name, fill in self.steps:
            left = min(left, self._after(fill.where, iteration, masks, most, last))
            most[name], last = left, name
        return left

    def _after(
        self, where: Value, iteration: int, masks: int, most: Mapping[str, int], last: str
    ) -> int:
        """Return how many masked rows are left at the most where `where` is filled."""
        if where.picks:
            return masks
        if where.field == "masked":
            covers = where.node in (self.variable, last) or where.node in self._within(last)
            return 0 if covers else masks
        select = self.selects.get(where.node)
        if select is None or select.among.field != "masked" or select.among.picks:
            return masks
        among = select.among.node
        if among == self.variable:
            return masks - self._least(where.node, iteration, masks)
        if among in most:
            counts = self._counts(range(most[among] + 1))
            return max(count - self._least(where.node, iteration, count) for count in counts)
        return masks

    def _within(self, name: str) -> frozenset[str]:
        held = self.values.get(name)
        return held.within if isinstance(held, HeldRows) else frozenset()

    def _least(self, name: str, iteration: int, left: int) -> int:
        """Return how many of exactly `left` rows a selection takes at the least."""
        depends = self.depends[name]
        key = (
            name,
            iteration if "iteration" in depends else None,
            left if "left" in depends else None,
        )
        self._work()
        if key not in self._known:
            if self.selects[name].where is not None:  # it is asked of every rank
                self.work += left
            self._known[key] = least(self.selects[name], iteration, left, self.declared)
        return min(left, self._known[key])

    def _work(self) -> None:
        self.work += 1
        if self.work > MOST_WORK:
            raise _TooMuchError


def _is_whole(rule: Expr) -> bool:
    """Whether a rule is made of whole numbers alone."""
    return not any(
        isinstance(part, Number) and not isinstance(part.value, int) for part in _parts(rule)
    )


def _parts(rule: Expr) -> Iterator[Any]:
    yield rule
    for part in children(rule):
        yield from _parts(part)  # type: ignore[arg-type]


def _depends(select: Select) -> frozenset[str]:
    """Return what a selection's rules ask of a round; a condition is asked of all rows left."""
    rules = (select.at_least, select.best, select.within, select.always_best, select.where)
    asked = frozenset(ref.root for rule in rules if rule is not None for ref in references(rule))
    return asked if select.where is None else asked | {"left"}


def least(select: Select, iteration: int, left: int, declared: Declared = NONE) -> int:
    """Return how many of `left` rows a selection takes at the least, if it can.

    More than `left` says that it takes all of them. Of `declared` params any value may be given.
    """
    numbers = {"iteration": iteration, "left": left}

    def value(rule: Expr | None) -> float:
        if rule is None:
            return 0
        try:
            if any(named(rule, declared)):
                return float(range_of(rule, declared, numbers).low)
            return float(evaluate(rule, numbers))
        except (ExprError, UndecidedError):
            return 0

    found = max(0, int(value(select.best)), int(value(select.always_best)))
    if select.within is not None and _is_no_debt(select.within, numbers, declared):
        found = max(found, 1)  # nothing is surer than the surest row
    if takes_all(select, numbers):
        return max(found, left, 1 << 30)
    return max(found, _by_rank(select.where, numbers, left, declared))


def _is_no_debt(bound: Expr, numbers: Mapping[str, int], declared: Declared) -> bool:
    """Whether a bound on a sum is surely 0 or more."""
    param = declared.get(bound.dotted or "") if isinstance(bound, Ref) else None
    if param is not None:
        return param.low >= 0
    return sure_number(bound, numbers) >= 0


def _by_rank(where: Expr | None, numbers: Mapping[str, int], left: int, declared: Declared) -> int:
    """Return how many rows a condition takes whatever they are and score: those of its ranks."""
    if where is None:
        return 0
    asked = {ref.root for ref in references(where)}
    if any(named(where, declared)):
        if "rank" not in asked:
            return (1 << 30) * surely(where, declared, numbers)
        return sum(surely(where, declared, {**numbers, "rank": rank}) for rank in range(left))
    if "rank" not in asked:
        return (1 << 30) * (fold(where, lambda ref: numbers.get(ref.root)) == Boolean(True))
    taken = (
        fold(where, lambda ref, rank=rank: {**numbers, "rank": rank}.get(ref.root))  # type: ignore[misc]
        for rank in range(left)
    )
    return sum(found == Boolean(True) for found in taken)
