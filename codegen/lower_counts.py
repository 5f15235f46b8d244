"""Counts in generated code: how long the parts are that they cut off, and what bounds what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nldc.codegen import program as p
from nldc.codegen.lengths import Length, length_of
from nldc.codegen.ordered import Ordered
from nldc.codegen.tables import Tables
from nldc.codegen.values import size_of, type_of
from nldc.expr import Boolean
from nldc.ir.cut import is_cut
from nldc.ir.effects import leaving
from nldc.ir.graph import Graph
from nldc.ir.ops import Accept, Forward, Reckon, Region, Value
from nldc.ir.ranges import Range, evaluate_range
from nldc.ir.types import Count


@dataclass(frozen=True)
class CountLowering:
    """Lowers lengths for one method; `use` lowers a use of a value."""

    graph: Graph
    tables: Tables
    use: Callable[[Value], p.Use]

    def length(self, value: Value) -> Length | None:
        """Return how long the part of a value is that a sequence uses; None: all of it."""
        return length_of(self.graph, value)

    def counted(self, value: Value) -> p.Use | p.Length | None:
        """Return how many of the tokens of a value count in each sequence, or None if all do."""
        length = self.length(value)
        return None if length is None else self.shown(length, value.node)

    def shown(self, length: Length, node: str) -> p.Use | p.Length:
        """Return a length as generated code has it: the count itself, or what a table says."""
        if length.sizes == tuple(range(length.low, length.low + len(length.sizes))):
            return self.use(length.count)
        table = self.tables.of(f"{node}_lengths", tuple((size,) for size in length.sizes))
        return p.Length(table, self.use(length.count), length.low)

    def most(self, name: str, op: Accept) -> p.Amount | None:
        """Return how many matches an accept may have, where a Count cuts draft or target."""
        draft, target = self.length(op.draft), self.length(op.target)
        if draft is None and target is None:
            return None
        drafts = size_of(self.graph, op.draft).fixed - op.offset
        targets = size_of(self.graph, op.target).fixed - 1
        draft = None if draft is None else draft.plus(-op.offset)
        target = None if target is None else target.plus(-1)
        if draft is None or target is None:
            one, fixed = (target, drafts) if draft is None else (draft, targets)
            assert one is not None
            capped = Length(one.count, one.low, tuple(min(size, fixed) for size in one.sizes))
            return self.shown(capped, name)
        if (draft.count, draft.low, len(draft.sizes)) == (
            target.count, target.low, len(target.sizes),
        ):  # fmt: skip
            sizes = tuple(map(min, draft.sizes, target.sizes))
            return self.shown(Length(draft.count, draft.low, sizes), name)
        return p.Least((self.shown(draft, f"{name}_draft"), self.shown(target, f"{name}_target")))

    def kept(self, region: Region, keep: Value | None) -> p.Amount | None:
        """Return how many rows stay; None: all that were appended.

        Of a part that a Count cuts, no more stay than it has.
        """
        last = [node for node in region.nodes if is_cut(node) and _appends(node.op)]
        if not last:
            return None if keep is None else self.use(keep)
        before = 0
        for node in region.nodes:
            left = leaving(node.op)
            if left is not None and node is not last[0]:
                before += Ordered(left, self.graph.kinds).appended().fixed
        length = self.length(Value(last[0].name, last[0].span))
        assert length is not None
        if keep is not None and self._within(keep, length):
            return self.use(keep)
        there = self.shown(length.plus(before), f"{last[0].name}_kept")
        return there if keep is None else p.Least((self.use(keep), there))

    def _within(self, keep: Value, length: Length) -> bool:
        """Whether a count is of rows that agreed with targets chosen from just those rows."""
        node = next((node for node in self.graph.nodes if node.name == keep.node), None)
        if node is None or not isinstance(node.op, Accept):
            return False
        return keep.field in ("rows", "matches") and self.length(node.op.target) == length

    def reckon(self, name: str, origin: p.Origin, op: Reckon) -> p.Reckon:
        """Return how a Count is made: held within its bounds where it could lie outside."""
        ranges = {}
        for text, value in op.terms:
            type_ = type_of(self.graph, value)
            assert isinstance(type_, Count)
            ranges[text] = Range(type_.low, type_.high)
        found = evaluate_range(op.expr, lambda ref: ranges.get(ref.dotted or ""))
        terms = tuple((text, self.use(value)) for text, value in op.terms)
        low = op.low if found.low < op.low else None
        high = op.high if found.high > op.high else None
        return p.Reckon(name, origin, op.expr, terms, low, high)


def _appends(op: object) -> bool:
    return isinstance(op, Forward) and op.append == Boolean(True)
