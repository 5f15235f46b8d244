"""Attention of a forward's rows over the cached prefix and one another, in torch.

A `Pattern` says which keys a row sees. Each sequence attends over its own prefix at its own
length. All products are of one fixed shape, so no row's result depends on what is computed with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from nldc.runtime.kv_cache import KVCache, Places
from nldc.runtime.layout import NONE, Layout

QUERY_TILE = 256
"""Rows whose bias is made at a time: bounds the memory that a long prompt takes."""
ROW_TILE = 16
KEY_TILE = 64
"""Lines and keys of one product; see `attend`."""


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
    [R, R] of 0 and -inf; None if there are too many rows to keep it. `blind`: some row may see
    nothing at all, and then attends to nothing.
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
            own = _bias(sees, device, dtype)
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
        self.biases: dict[int, Tensor] = {}

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
        shared, blind = query.shape[1] // keys.shape[0], self.plan.blind
        if self.rows <= QUERY_TILE:
            if length not in self.biases:
                self.biases[length] = self._bias(length, slice(None), shared)
            return attend(query, keys, values, self.biases[length], blind=blind)
        outputs = []
        for start in range(0, self.rows, QUERY_TILE):
            tile = slice(start, min(start + QUERY_TILE, self.rows))
            bias = self._bias(length, tile, shared)
            outputs.append(attend(query[tile], keys, values, bias, blind=blind))
        return torch.cat(outputs)

    def _bias(self, length: int, tile: slice, shared: int) -> Tensor:
        """Return the bias that `attend` takes for a prefix of that length, for a tile of rows."""
        plan, end = self.plan, length + self.rows
        own, cached = plan.own, None
        if own is None or not plan.pattern.sees_prefix:
            sees_cached, sees_own = visible(plan.layout, plan.pattern, length, tile)
            own = _bias(sees_own, self.cache.device, self.compute)
            cached = _bias(sees_cached, self.cache.device, self.compute)
        bias = own.new_zeros(own.shape[0], -(-end // KEY_TILE) * KEY_TILE)
        bias[:, length:end] = own
        bias[:, end:] = -math.inf
        if cached is not None:
            bias[:, :length] = cached
        lines = bias.repeat_interleave(shared, 0)
        return F.pad(lines, (0, 0, 0, -lines.shape[0] % ROW_TILE))


def attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, *, blind: bool) -> Tensor:
    """Return softmax(query keys^T + bias) values: [R, heads * head_dim].

    `query` [R, heads, head_dim], already scaled; `keys` and `values` [kv_heads, n, head_dim]. A
    line is a row and one of the heads that share a key head. `bias` holds 0 and -inf for each line
    and key, with lines rounded up to `ROW_TILE` and keys to `KEY_TILE`. With `blind`, a row that
    sees nothing gets zeros.

    Every product has the shape of one tile of lines and one of keys, so that a row's bits depend
    neither on the other rows nor on keys that it does not see.
    """
    rows, heads, dim = query.shape
    kv_heads, count = keys.shape[0], keys.shape[1]
    shared, padded = heads // kv_heads, bias.shape[1]
    tiles = padded // KEY_TILE
    missing = (0, 0, 0, padded - count)
    keys = F.pad(keys, missing).view(kv_heads * tiles, KEY_TILE, dim).transpose(1, 2)
    values = F.pad(values, missing).view(kv_heads * tiles, KEY_TILE, dim)
    lines = query.view(rows, kv_heads, shared, dim).transpose(0, 1).reshape(kv_heads, -1, dim)
    lines = F.pad(lines, (0, 0, 0, bias.shape[0] - lines.shape[1]))
    found = []
    for start in range(0, bias.shape[0], ROW_TILE):
        tile = lines.narrow(1, start, ROW_TILE).unsqueeze(1)
        tile = tile.expand(kv_heads, tiles, ROW_TILE, dim).reshape(-1, ROW_TILE, dim)
        scores = torch.bmm(tile, keys).view(kv_heads, tiles, ROW_TILE, KEY_TILE)
        scores = scores.transpose(1, 2).reshape(kv_heads, ROW_TILE, padded)
        weights = torch.softmax(scores.add_(bias.narrow(0, start, ROW_TILE)), -1)
        if blind:
            weights = weights.nan_to_num(nan=0.0)
        weights = weights.view(kv_heads, ROW_TILE, tiles, KEY_TILE).transpose(1, 2)
        parts = torch.bmm(weights.reshape(-1, ROW_TILE, KEY_TILE), values)
        found.append(parts.view(kv_heads, tiles, ROW_TILE, dim).sum(1))
    whole = found[0] if len(found) == 1 else torch.cat(found, 1)
    whole = whole.narrow(1, 0, rows * shared).reshape(kv_heads, rows, shared, dim)
    return whole.transpose(0, 1).reshape(rows, heads * dim)
