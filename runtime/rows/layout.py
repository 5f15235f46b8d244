"""Rows of a forward: the static facts of each, the same for every sequence of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

NONE = -1
"""The kind, group, index and row of a key that is no row of the layout."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Facts of R rows: int64 [R] each but `predicts_next`, bool [R]; on the CPU.

    `offset` is a row's position counted from the end of the cached prefix. The first `append`
    rows stay in the cache; row r of those lies at offset r, unless `staying` says otherwise, or
    the rows branch.
    `sequential`: row r lies at offset r, is of no kind, and stays.
    """

    kind: Tensor
    group: Tensor
    index: Tensor
    row: Tensor
    offset: Tensor
    predicts_next: Tensor
    append: int
    sequential: bool = False

    @property
    def size(self) -> int:
        """The number of rows, R."""
        return self.row.shape[0]

    @staticmethod
    def of(
        kind: Sequence[int],
        group: Sequence[int],
        index: Sequence[int],
        row: Sequence[int],
        offset: Sequence[int],
        predicts_next: Sequence[bool],
        append: int,
        branched: bool = False,
    ) -> Layout:
        """Return the layout of these rows.

        Of `branched` rows those of one branch stay, which move to their places as a step ends: the
        appended ones may lie anywhere before that.

        Raises:
            ValueError: the sequences differ in length, or an appended row is out of place.
        """
        size = len(row)
        columns = {
            "kind": kind,
            "group": group,
            "index": index,
            "row": row,
            "offset": offset,
        }
        for name, values in {**columns, "predicts_next": predicts_next}.items():
            if len(values) != size:
                raise ValueError(f"{name} has {len(values)} rows, not {size}")
        if not branched and list(offset[:append]) != list(range(append)):
            raise ValueError(f"the {append} appended rows must lie at offsets 0 to {append - 1}")
        held: dict[str, Any] = {
            name: torch.tensor(values, dtype=torch.int64) for name, values in columns.items()
        }
        held["predicts_next"] = torch.tensor(predicts_next, dtype=torch.bool)
        return Layout(**held, append=append)

    def staying(self, stays: Sequence[bool]) -> Layout:
        """Return the layout with the rows that stay in the cache first, otherwise in order.

        They may lie anywhere. `in_order` and `places` take other facts and rows over.

        Raises:
            ValueError: there is not a flag for each row.
        """
        if len(stays) != self.size:
            raise ValueError(f"there are {len(stays)} flags for {self.size} rows")
        order = sorted(range(self.size), key=lambda place: not stays[place])
        index = torch.tensor(order, dtype=torch.int64)
        columns: dict[str, Any] = {
            item.name: getattr(self, item.name)[index]
            for item in fields(self)
            if item.name not in ("append", "sequential")
        }
        return Layout(**columns, append=sum(map(bool, stays)))

    def in_order(self, values: Sequence[bool]) -> list[bool]:
        """Return a value for each row, given by the rows' numbers, in the order of the layout."""
        return [values[row] for row in self.row.tolist()]

    def places(self, rows: Sequence[int]) -> list[int]:
        """Return where rows stand in the layout, by their numbers."""
        place = {row: place for place, row in enumerate(self.row.tolist())}
        return [place[row] for row in rows]

    @staticmethod
    def causal(size: int, *, append: bool = True, predicts_next: bool = True) -> Layout:
        """Return the layout of `size` tokens that follow one another, of one group and no kind."""
        count = torch.arange(size)
        zero = torch.zeros(size, dtype=torch.int64)
        return Layout(
            kind=zero - 1,
            group=zero,
            index=count,
            row=count,
            offset=count,
            predicts_next=torch.full((size,), predicts_next),
            append=size if append else 0,
            sequential=append,
        )
