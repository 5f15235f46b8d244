"""Attention of a forward's rows over the cached prefix and one another, in torch.

A `Pattern` says which keys a row sees. Each sequence attends over its own prefix at its own
length, so nothing is padded and no sequence's result depends on who shares the forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from nldc.runtime.kv_cache import KVCache, Places
from nldc.runtime.layout import NONE, Layout

QUERY_TILE = 256
"""Query rows scored at a time: bounds the memory of a long prompt's scores."""


@dataclass(frozen=True, eq=False)
class RowFacts:
    """What a predicate may ask of rows: int64 or bool tensors that broadcast to [queries, keys].

    `position` counts from the end of the cached prefix, so it is negative for a prefix key.
    """

    kind: Tensor
    group: Tensor
    index: Tensor
    row: Tensor
    segment: Tensor
    masked: Tensor
    position: Tensor
    prefix: Tensor


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which keys a query row sees.

    `mask` maps the facts of queries [R, 1] and keys [1, N] to bool [R, N]. `kernel` loads the same
    predicate as a `@triton.jit` function over `abi.PREDICATE_ARGUMENTS` (a function of no
    arguments, so that triton is imported only where it is used), or is None. `sees_prefix` promises
    that every row sees the whole cached prefix.
    """

    name: str
    mask: Callable[[RowFacts, RowFacts], Tensor | bool]
    kernel: Callable[[], Any] | None = None
    sees_prefix: bool = False


def row_facts(layout: Layout, rows: slice, *, as_keys: bool) -> RowFacts:
    """Return the facts of some rows of a layout: [n, 1], or [1, n] as keys."""

    def column(values: Tensor) -> Tensor:
        return values[rows].unsqueeze(0 if as_keys else 1)

    return RowFacts(
        kind=column(layout.kind),
        group=column(layout.group),
        index=column(layout.index),
        row=column(layout.row),
        segment=column(layout.segment),
        masked=column(layout.masked),
        position=column(layout.offset),
        prefix=torch.zeros_like(column(layout.masked)),
    )


def prefix_facts(length: int) -> RowFacts:
    """Return the facts of a cached prefix's keys, [1, length]."""
    none = torch.full((1, length), NONE)
    return RowFacts(
        kind=none,
        group=none,
        index=none,
        row=none,
        segment=none,
        masked=torch.zeros(1, length, dtype=torch.bool),
        position=torch.arange(-length, 0).unsqueeze(0),
        prefix=torch.ones(1, length, dtype=torch.bool),
    )


def visible(
    layout: Layout, pattern: Pattern, prefix: int, rows: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Return what the rows see of a prefix of that length, bool [n, prefix], and of the layout,
    bool [n, R].
    """
    query = row_facts(layout, rows, as_keys=False)
    count = query.row.shape[0]
    own = pattern.mask(query, row_facts(layout, slice(None), as_keys=True))
    cached = pattern.mask(query, prefix_facts(prefix))
    return (
        torch.as_tensor(cached, dtype=torch.bool).expand(count, prefix),
        torch.as_tensor(own, dtype=torch.bool).expand(count, layout.size),
    )


@dataclass(frozen=True, eq=False)
class Plan:
    """A layout and a pattern made ready for one device.

    `facts` is int32 [R, 7], for kernels. `own` is what is added to scores of the rows' own keys,
    [R, R] of 0 and -inf; None if every row sees every row. `blind`: some row may see nothing at
    all, and then attends to nothing.
    """

    layout: Layout
    pattern: Pattern
    offset: Tensor
    ahead: Tensor
    reach: int
    facts: Tensor
    own: Tensor | None
    blind: bool

    @staticmethod
    def of(layout: Layout, pattern: Pattern, device: torch.device, dtype: torch.dtype) -> Plan:
        """Evaluate the pattern over the rows and move the facts to `device`."""
        own: Tensor | None = None
        blind = layout.size > QUERY_TILE
        if layout.size <= QUERY_TILE:
            _, sees = visible(layout, pattern, 0)
            blind = not bool(sees.any(1).all())
            own = None if bool(sees.all()) else _bias(sees, device, dtype)
        return Plan(
            layout=layout,
            pattern=pattern,
            offset=layout.offset.to(device),
            ahead=layout.predicts_next.to(device, torch.int64),
            reach=int(layout.offset.max()) + 1,
            facts=torch.stack(
                (
                    layout.kind,
                    layout.group,
                    layout.index,
                    layout.row,
                    layout.segment,
                    layout.masked.long(),
                    layout.offset,
                ),
                1,
            ).to(device, torch.int32),
            own=own,
            blind=blind,
        )


def _bias(sees: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    bias = torch.zeros(sees.shape, dtype=dtype)
    return bias.masked_fill_(~sees, -math.inf).to(device)


class Attention(Protocol):
    """Attention of one forward: stores the rows' keys and values, and lets the queries look."""

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, factor: Tensor
    ) -> Tensor:
        """Return [n, heads * head_dim] for query [n, heads, head_dim], rotated but not scaled.

        `key` and `value` are [n, kv_heads, head_dim]; `factor` [n, 1, 1] scales the queries. The n
        rows are those of all sequences, one sequence after another.
        """
        ...


class TorchAttention:
    """The torch backend: one sequence after another, each over its own prefix."""

    def __init__(self, plan: Plan, cache: KVCache, places: Places) -> None:
        self.plan = plan
        self.cache = cache
        self.places = tuple(zip(places.slots, places.lengths, strict=True))
        self.rows = plan.layout.size
        self.single = len(self.places) == 1
        self.compute = torch.promote_types(cache.dtype, torch.float32)
        self.exact = self.compute == cache.dtype

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, factor: Tensor
    ) -> Tensor:
        """See `Attention`."""
        query = query.to(self.compute) * factor
        if self.single:
            result = self._sequence(layer, *self.places[0], query, key, value)
        else:
            parts = (rows.chunk(len(self.places)) for rows in (query, key, value))
            result = torch.cat(
                [
                    self._sequence(layer, *place, *rows)
                    for place, *rows in zip(self.places, *parts, strict=True)
                ]
            )
        return result if self.exact else result.to(self.cache.dtype)

    def _sequence(
        self, layer: int, slot: int, length: int, query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        keys, values = self.cache.slot_keys[layer][slot], self.cache.slot_values[layer][slot]
        keys.narrow(1, length, self.rows).copy_(key.transpose(0, 1))
        values.narrow(1, length, self.rows).copy_(value.transpose(0, 1))
        keys, values = (
            keys.narrow(1, 0, length + self.rows),
            values.narrow(1, 0, length + self.rows),
        )
        if not self.exact:
            keys, values = keys.to(self.compute), values.to(self.compute)
        return self._attend(query, keys, values, length)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, length: int) -> Tensor:
        if self.rows <= QUERY_TILE:
            cached = self._prefix_bias(length, slice(None))
            return attend(query, keys, values, cached, self.plan.own, blind=self.plan.blind)
        plan, outputs = self.plan, []
        for start in range(0, self.rows, QUERY_TILE):
            tile = slice(start, min(start + QUERY_TILE, self.rows))
            _, sees = visible(plan.layout, plan.pattern, 0, tile)
            own = _bias(sees, query.device, query.dtype)
            cached = self._prefix_bias(length, tile)
            outputs.append(attend(query[tile], keys, values, cached, own, blind=plan.blind))
        return torch.cat(outputs)

    def _prefix_bias(self, length: int, rows: slice) -> Tensor | None:
        plan = self.plan
        if plan.pattern.sees_prefix or length == 0:
            return None
        cached, _ = visible(plan.layout, plan.pattern, length, rows)
        return _bias(cached, self.cache.device, self.compute)


def attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    cached: Tensor | None,
    own: Tensor | None,
    *,
    blind: bool,
) -> Tensor:
    """Return softmax(query keys^T + bias) values: [R, heads * head_dim].

    `query` [R, heads, head_dim], already scaled; `keys` and `values` [kv_heads, prefix + n,
    head_dim]; the biases `cached` [R, prefix] and `own` [R, n] hold 0 and -inf, None is all 0.
    With `blind`, a row that sees nothing gets zeros.
    """
    rows, heads, dim = query.shape
    kv_heads = keys.shape[0]
    shared = heads // kv_heads
    if rows == 1:
        packed = query.view(kv_heads, shared, dim)
    else:
        packed = query.transpose(0, 1).reshape(kv_heads, shared * rows, dim)
    scores = torch.bmm(packed, keys.transpose(1, 2))
    if cached is not None or own is not None:
        by_row = scores.view(heads, rows, -1)
        if own is not None:
            by_row[:, :, keys.shape[1] - own.shape[1] :] += own
        if cached is not None:
            by_row[:, :, : cached.shape[1]] += cached
    weights = torch.softmax(scores, -1)
    if blind:
        weights = weights.nan_to_num(nan=0.0)
    found = torch.bmm(weights, values)
    if rows == 1:
        return found.view(1, heads * dim)
    return found.view(heads, rows, dim).transpose(0, 1).reshape(rows, heads * dim)
