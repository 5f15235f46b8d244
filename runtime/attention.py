"""Attention of a forward's rows over the cached prefix and one another, in torch.

A `Pattern` says which keys a row sees. Each sequence attends over its own prefix at its own
length. Products have fixed shapes, so no row's result depends on what is computed with it.
What depends on the forward but not on the layer is prepared once a forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from nldc.runtime.kv_cache import KEY_TILE, KVCache, Places
from nldc.runtime.layout import NONE, Layout
from nldc.runtime.line_tiles import cut, line_tiles

QUERY_TILE = 256
"""Rows whose bias is made at a time: bounds the memory that a long prompt takes."""


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


def row_facts(layout: Layout, rows: slice | Tensor, *, as_keys: bool) -> RowFacts:
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
        self.dtype = cache.dtype
        self.exact = _wide(cache.dtype) == cache.dtype
        biases: dict[int, Tensor] = {}
        self.sequences = tuple(
            _Sequence(plan, cache, slot, length, biases)
            for slot, length in zip(places.slots, places.lengths, strict=True)
        )

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, factor: Tensor
    ) -> Tensor:
        """See `Attention`."""
        if len(self.sequences) == 1:
            result = self.sequences[0].attend(layer, query, key, value, factor)
        else:
            parts = (rows.chunk(len(self.sequences)) for rows in (query, key, value, factor))
            result = torch.cat(
                [
                    sequence.attend(layer, *own)
                    for sequence, *own in zip(self.sequences, *parts, strict=True)
                ]
            )
        return result if self.exact else result.to(self.dtype)


class _Sequence:
    """One sequence of a forward: where its rows go in the cache, and the tiles that they look at.

    Sequences of one length share their bias through `biases`.
    """

    def __init__(
        self, plan: Plan, cache: KVCache, slot: int, length: int, biases: dict[int, Tensor]
    ) -> None:
        rows = plan.layout.size
        end = length + rows
        cache.claim(slot, end)
        held = cache.data[:, :, slot]
        self.targets = tuple(
            (slice(first - length, last - length), *_layers(held, first, last))
            for first, last in _tile_by_tile(length, end)
        )
        self.tiles = -(-end // KEY_TILE)
        seen = held[:, :, : self.tiles].flatten(2, 3)
        self.keys = seen[0].transpose(2, 3).unbind()
        self.values = seen[1].unbind()
        self.wide = None if _wide(cache.dtype) == cache.dtype else _wide(cache.dtype)
        self.pieces: list[tuple[slice, _Piece]] = []
        shared = cache.config.num_heads // cache.config.num_kv_heads
        fitting = line_tiles(
            cache.config.head_dim, _wide(cache.dtype), cache.device, torch.get_num_threads()
        )
        for start in range(0, rows, QUERY_TILE):
            tile = slice(start, min(start + QUERY_TILE, rows))
            size = tile.stop - tile.start
            sizes = cut(size * shared, fitting)
            bias = biases.get(length)
            if bias is None:
                bias = _lines_bias(plan, cache, length, tile, sum(sizes))
            if rows <= QUERY_TILE:
                biases[length] = bias
            piece = _Piece(cache, size, self.tiles, bias, sizes, blind=plan.blind)
            self.pieces.append((tile, piece))

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, factor: Tensor
    ) -> Tensor:
        """Write the rows' keys and values; return [R, heads * head_dim]."""
        key, value = key.transpose(0, 1), value.transpose(0, 1)
        for rows, keys, values in self.targets:
            keys[layer].copy_(key[:, rows])
            values[layer].copy_(value[:, rows])
        seen, read = self.keys[layer], self.values[layer]
        if self.wide is not None:
            seen, read = seen.to(self.wide), read.to(self.wide)
        if len(self.pieces) == 1:
            return self.pieces[0][1].attend(query, factor, seen, read)
        return torch.cat(
            [piece.attend(query[rows], factor[rows], seen, read) for rows, piece in self.pieces]
        )


class _Piece:
    """Some rows of a sequence, and room to compute their attention in.

    A line is a row and one of the query heads that share a key head. Every product has the lines of
    one of `sizes`, which agree bit for bit, and one tile of keys, so that a row's bits depend
    neither on the other rows nor on keys that it does not see. `bias` [lines, keys] holds 0 and
    -inf, keys rounded up to `KEY_TILE`. With `blind`, a row that sees nothing gets zeros.
    """

    def __init__(
        self,
        cache: KVCache,
        rows: int,
        tiles: int,
        bias: Tensor,
        sizes: tuple[int, ...],
        *,
        blind: bool,
    ) -> None:
        config, dtype, device = cache.config, bias.dtype, cache.device
        kv_heads, dim = config.num_kv_heads, config.head_dim
        shared = config.num_heads // kv_heads
        self.blind = blind
        self.used = rows * shared
        self.by_row = (rows, kv_heads, shared, dim)
        self.by_head = (kv_heads, rows, shared, dim)
        self.lines = torch.zeros((kv_heads, len(bias), dim), dtype=dtype, device=device)
        self.rows = self.lines[:, : self.used].view(self.by_head).transpose(0, 1)
        self.bias = torch.split(bias.view(-1, tiles, KEY_TILE), list(sizes))
        self.sizes = sizes
        self.room = {
            size: (
                torch.empty((tiles, kv_heads, size, dim), **_like(bias)),
                torch.empty((kv_heads, size, tiles, KEY_TILE), **_like(bias)),
            )
            for size in set(sizes)
        }

    def attend(self, query: Tensor, factor: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return softmax(query keys + bias) values: [R, heads * head_dim].

        `query` [R, heads, head_dim], scaled by `factor` [R, 1, 1] here; `keys`
        [tiles * kv_heads, head_dim, KEY_TILE], `values` [tiles * kv_heads, KEY_TILE, head_dim].
        """
        torch.mul(query.view(self.by_row), factor.unsqueeze(3), out=self.rows)
        if len(self.sizes) == 1:
            found = self._tile(self.lines, self.bias[0], keys, values)
        else:
            tiles = zip(torch.split(self.lines, list(self.sizes), 1), self.bias, strict=True)
            found = torch.cat([self._tile(*tile, keys, values) for tile in tiles], 1)
        found = found.narrow(1, 0, self.used).view(self.by_head)
        return found.transpose(0, 1).reshape(self.by_row[0], -1)

    def _tile(self, lines: Tensor, bias: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return [kv_heads, n, head_dim] for the n lines of one product."""
        size = lines.shape[1]
        repeated, scores = self.room[size]
        by_tile = repeated.shape[:3]
        seen = torch.bmm(repeated.copy_(lines).flatten(0, 1), keys).view(*by_tile, KEY_TILE)
        torch.add(seen.permute(1, 2, 0, 3), bias, out=scores)
        weights = torch.softmax(scores.flatten(2), -1)
        if self.blind:
            weights = weights.nan_to_num(nan=0.0)
        weights = weights.view(scores.shape).permute(2, 0, 1, 3)
        parts = torch.bmm(weights.reshape(-1, size, KEY_TILE), values)
        return parts.view(*by_tile, -1).sum(0)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _like(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": tensor.dtype, "device": tensor.device}


def _tile_by_tile(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of `first` to `last` that lie in one tile of the cache each."""
    while first < last:
        end = min(last, (first // KEY_TILE + 1) * KEY_TILE)
        yield first, end
        first = end


def _layers(held: Tensor, first: int, last: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return each layer's keys and values of a run within a tile, [kv_heads, n, head_dim]."""
    tile, row = divmod(first, KEY_TILE)
    keys, values = held[:, :, tile, :, row : row + last - first]
    return keys.unbind(), values.unbind()


def _lines_bias(plan: Plan, cache: KVCache, length: int, rows: slice, lines: int) -> Tensor:
    """Return the bias of `_Piece` for a prefix of that length, for a run of rows in `lines`."""
    end, own, cached = length + plan.layout.size, plan.own, None
    dtype = _wide(cache.dtype)
    if own is None or not plan.pattern.sees_prefix:
        sees_cached, sees_own = visible(plan.layout, plan.pattern, length, rows)
        own = _bias(sees_own, cache.device, dtype)
        cached = _bias(sees_cached, cache.device, dtype)
    shared = cache.config.num_heads // cache.config.num_kv_heads
    bias = own.new_zeros(lines, -(-end // KEY_TILE) * KEY_TILE)
    used = bias[: own.shape[0] * shared].view(own.shape[0], shared, -1)
    used[:, :, length:end] = own.unsqueeze(1)
    used[:, :, end:] = -math.inf
    if cached is not None:
        used[:, :, :length] = cached.unsqueeze(1)
    return bias
