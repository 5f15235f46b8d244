"""The rows of one forward of the prefill, in a prompt of any length: every fact of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nldc.expr import Expr
from nldc.ir.facts import NO_KIND, row_ranges
from nldc.ir.layout import Layout, Row
from nldc.ir.ops import Forward, Node
from nldc.ir.ranges import evaluate_range

Class = tuple[str, int, int]
"""Rows that are alike: of a node, a segment of it, and its row (-1: all of the segment's rows)."""


def class_of(node: str, layout: Layout, row: Row, prompt_length: int) -> Class:
    """Return the class of a row in a prompt of that length."""
    if not layout.dynamic:
        return node, 0, row.row
    segment = layout.segments[row.segment]
    if segment.sizes[0].prompts:
        return node, row.segment, -1
    before = sum(s.sizes[0].at(prompt_length) for s in layout.segments[: row.segment])
    return node, row.segment, row.row - before


@dataclass(frozen=True)
class PrefillRows:
    """The rows of one forward; `kinds` are the labels of its graph."""

    node: Node
    op: Forward
    kinds: tuple[str, ...]

    @cached_property
    def layout(self) -> Layout:
        """How the rows are laid out."""
        return self.op.layout

    @cached_property
    def fixed(self) -> int:
        """How many rows there are whatever the prompt."""
        if not self.layout.dynamic:
            return len(self.layout.rows())
        return sum(abs(segment.sizes[0].fixed) for segment in self.layout.segments)

    def facts(self, length: int) -> dict[str, Any]:
        """Return each fact of every row, in a prompt of that length.

        `segment` and `inside` are those of its class.
        """
        if not self.layout.dynamic:
            held = self.layout.rows()
            return {
                "row": np.array([row.row for row in held]),
                "group": np.array([row.group for row in held]),
                "index": np.array([row.index for row in held]),
                "kind": np.array([self._kind(row.kind) for row in held]),
                "masked": np.array([int(row.masked) for row in held]),
                "segment": np.array([0] * len(held)),
                "inside": np.array([row.row for row in held]),
                "prefix": np.zeros(len(held), dtype=np.int64),
            }
        sizes = [max(0, segment.sizes[0].at(length)) for segment in self.layout.segments]
        row = np.arange(sum(sizes))
        segments = self.layout.segments
        flags = [int(not segment.tokens) for segment in segments]
        inside = [
            np.full(size, -1) if segment.sizes[0].prompts else np.arange(size)
            for segment, size in zip(segments, sizes, strict=True)
        ]
        return {
            "row": row,
            "group": np.zeros_like(row),
            "index": row,
            "kind": np.repeat([self._kind(segment.kind) for segment in segments], sizes),
            "masked": np.repeat(flags, sizes),
            "segment": np.repeat(range(len(segments)), sizes),
            "inside": np.concatenate(inside),
            "prefix": np.zeros_like(row),
        }

    def _kind(self, kind: str | None) -> int:
        return NO_KIND if kind is None else self.kinds.index(kind)

    def each(self, expr: Expr, facts: Mapping[str, Any]) -> Any:
        """Return the value of an expression for every row."""
        found = evaluate_range(expr, row_ranges(facts, self.kinds))
        return np.broadcast_to(found.low, facts["row"].shape).astype(np.int64)

    def adapted(self, facts: Mapping[str, Any]) -> Any:
        """Return whether each row is computed under an adapter."""
        if self.op.adapter is None:
            return np.zeros_like(facts["row"])
        return self.each(self.op.adapter_rows, facts)

    def classes(self, facts: Mapping[str, Any]) -> Iterator[tuple[Class, Any]]:
        """Yield every class with its rows."""
        for segment in range(int(facts["segment"].max()) + 1):
            places = np.flatnonzero(facts["segment"] == segment)
            inside = facts["inside"][places]
            alone = inside >= 0
            if not alone.all():
                yield (self.node.name, segment, -1), places[~alone]
            for place in places[alone]:
                yield (self.node.name, segment, int(facts["inside"][place])), np.array([place])
