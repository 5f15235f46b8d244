"""Row layouts: which rows a forward computes, in the order in which the file names them.

A layout is finite for a given prompt length, so everything that is asked of it (sizes, choices of
rows, visibility) is answered by listing its rows, never by reasoning about symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from nldc.ir.size import Size

MAX_ROWS = 8192
"""The largest layout that is accepted: more rows than any step can use, few enough to list."""


@dataclass(frozen=True)
class Row:
    """One row of a layout.

    `token` names the value that fills it, as (part of the layout, element of that part's value);
    None is a masked row. `group` and `index` count from 0; `index` restarts in every group.
    """

    row: int
    segment: int
    group: int
    index: int
    kind: str | None
    token: tuple[int, int] | None

    @property
    def masked(self) -> bool:
        """Whether the row begins as a mask."""
        return self.token is None


@dataclass(frozen=True)
class Segment:
    """A run of rows of one group: tokens of one value, or masks; `sizes` has one size a group."""

    sizes: tuple[Size, ...]
    tokens: bool
    kind: str | None


@dataclass(frozen=True)
class Layout:
    """Segments in order, repeated for each of `groups`. A layout with the prompt has one group.

    `by_segment` lists every group's rows of the first segment, then those of the second, and so on.
    """

    segments: tuple[Segment, ...]
    groups: int
    by_segment: bool = False

    @cached_property
    def size(self) -> Size:
        """The number of rows, over all groups."""
        return sum((size for segment in self.segments for size in segment.sizes), Size(0))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The labels in use, in order of first appearance."""
        return tuple(dict.fromkeys(s.kind for s in self.segments if s.kind is not None))

    @cached_property
    def dynamic(self) -> bool:
        """Whether the number of rows depends on the prompt's length."""
        return self.size.prompts > 0

    def rows(self, prompt_length: int = 0) -> tuple[Row, ...]:
        """List the rows for a prompt of that many tokens."""
        return _listed(self, prompt_length)

    def _list(self, prompt_length: int) -> tuple[Row, ...]:
        rows: list[Row] = []
        used = [0] * len(self.segments)
        for group in range(self.groups):
            index = 0
            for number, segment in enumerate(self.segments):
                for _ in range(segment.sizes[group].at(prompt_length)):
                    token = (number, used[number]) if segment.tokens else None
                    rows.append(Row(len(rows), number, group, index, segment.kind, token))
                    used[number] += 1
                    index += 1
        if self.by_segment:
            rows.sort(key=lambda row: row.segment)
            rows = [replace(row, row=place) for place, row in enumerate(rows)]
        return tuple(rows)


@lru_cache(maxsize=64)
def _listed(layout: Layout, prompt_length: int) -> tuple[Row, ...]:
    """List the rows once: a proof asks for the same ones in every outcome."""
    return layout._list(prompt_length)


def plain(size: Size, kind: str | None = None) -> Layout:
    """Return the layout of tokens that follow one another."""
    return Layout((Segment((size,), tokens=True, kind=kind),), groups=1)


def matching(
    layout: Layout, holds: Callable[[Row], bool], prompt_length: int = 0
) -> tuple[int, ...]:
    """Return the numbers of the rows for which `holds`."""
    return tuple(row.row for row in layout.rows(prompt_length) if holds(row))
