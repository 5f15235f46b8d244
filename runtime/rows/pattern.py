"""Which keys a row sees: the facts of rows that a predicate asks for, and the predicate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.rows.layout import NONE, Layout


@dataclass(frozen=True, eq=False)
class RowFacts:
    """What a predicate may ask of rows: int64 or bool tensors that broadcast to [queries, keys].

    `position` counts from the end of the cached prefix, so it is negative for a prefix key.
    """

    kind: Tensor
    group: Tensor
    index: Tensor
    row: Tensor
    position: Tensor
    prefix: Tensor
    prompt: Tensor = field(default_factory=lambda: torch.zeros((1, 1), dtype=torch.bool))


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which keys a query row sees.

    `mask` maps the facts of queries [R, 1] and keys [1, N] to bool [R, N]. `kernel` loads the same
    predicate as a `@triton.jit` function over `abi.PREDICATE_ARGUMENTS` (a function of no
    arguments, so that triton is imported only where it is used), or is None. `sees_prefix` promises
    that every row sees the whole cached prefix; `looks_back`, that it also sees, of the rows of a
    sequential layout, itself and those before it and no other. `asks_prompt`: what it says of the
    prefix depends on how much of it is the prompt.
    """

    name: str
    mask: Callable[[RowFacts, RowFacts], Tensor | bool]
    kernel: Callable[[], Any] | None = None
    sees_prefix: bool = False
    looks_back: bool = False
    asks_prompt: bool = False


def row_facts(layout: Layout, rows: slice | Tensor, *, as_keys: bool) -> RowFacts:
    """Return the facts of some rows of a layout: [n, 1], or [1, n] as keys."""

    def column(values: Tensor) -> Tensor:
        return values[rows].unsqueeze(0 if as_keys else 1)

    return RowFacts(
        kind=column(layout.kind),
        group=column(layout.group),
        index=column(layout.index),
        row=column(layout.row),
        position=column(layout.offset),
        prefix=torch.zeros_like(column(layout.row), dtype=torch.bool),
    )


def prefix_facts(length: int, prompt: int = 0) -> RowFacts:
    """Return the facts of a cached prefix's keys, [1, length]; the first are a prompt's."""
    none = torch.full((1, length), NONE)
    return RowFacts(
        kind=none,
        group=none,
        index=none,
        row=none,
        position=torch.arange(-length, 0).unsqueeze(0),
        prefix=torch.ones(1, length, dtype=torch.bool),
        prompt=(torch.arange(length) < prompt).unsqueeze(0),
    )


def visible(
    layout: Layout, pattern: Pattern, prefix: int, rows: slice = slice(None), prompt: int = 0
) -> tuple[Tensor, Tensor]:
    """Return what the rows see of a prefix of that length, bool [n, prefix], and of the layout,
    bool [n, R]. The first `prompt` rows of the prefix are the prompt's.
    """
    query = row_facts(layout, rows, as_keys=False)
    count = query.row.shape[0]
    own = pattern.mask(query, row_facts(layout, slice(None), as_keys=True))
    cached = pattern.mask(query, prefix_facts(prefix, prompt))
    return (
        torch.as_tensor(cached, dtype=torch.bool).expand(count, prefix),
        torch.as_tensor(own, dtype=torch.bool).expand(count, layout.size),
    )
