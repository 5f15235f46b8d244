"""Attention of a forward's rows over the cached prefix and one another, in torch.

A `Pattern` says which keys a row sees. Each sequence attends over its own prefix at its own
length. Products have fixed shapes, so no row's result depends on what is computed with it.
What depends on the forward but not on the layer is prepared once a forward, but for a long prompt,
whose pieces are made one after another in every layer: together they would take memory with the
square of its length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.invariant.line_tiles import KEY_TILE, Cut, cut, line_cut, products
from nldc.runtime.model.scratch import Heads, Room, Scratch
from nldc.runtime.rows.pattern import visible
from nldc.runtime.rows.plan import QUERY_TILE, Plan, bias_of

MASK_ROOM = 1 << 26
"""Bytes that the masks of a long prompt's pieces may take to serve all layers; then others are
evaluated in each.
"""
MOST_RUNS = 4
"""Runs of pages that are read where they lie; of more, a copy is made in every layer."""


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


def scratch_of(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Scratch:
    """Return what the forwards of a model share, in the dtype in which attention is computed."""
    shared = config.num_heads // config.num_kv_heads
    return Scratch(Heads(config.num_kv_heads, shared, config.head_dim, _wide(dtype), device))


class TorchAttention:
    """The torch backend: one sequence after another, each over its own prefix."""

    def __init__(
        self, plan: Plan, cache: KVCache, places: Places, scratch: Scratch | None = None
    ) -> None:
        self.dtype = cache.dtype
        self.exact = _wide(cache.dtype) == cache.dtype
        biases: dict[tuple[int, int], Tensor] = {}
        prompts = (0,) * len(places.slots)
        if plan.pattern.asks_prompt:
            assert places.prompts is not None
            prompts = places.prompts
        scratch = scratch or scratch_of(cache.config, cache.dtype, cache.device)
        self.sequences = tuple(
            _Sequence(plan, cache, slot, length, prompt, biases, scratch)
            for slot, length, prompt in zip(places.slots, places.lengths, prompts, strict=True)
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


@dataclass(frozen=True, eq=False)
class _Mask:
    """What a run of rows sees of the prefix and of all rows, bool [n, length] and [n, R].

    `cached` None: all of the prefix. They see nothing behind the first so many `tiles`.
    """

    cached: Tensor | None
    own: Tensor
    tiles: int


_Parts = tuple[Tensor, ...]
"""Keys or values of one layer, [tiles * kv_heads, ., .] in all, cut where the pages are no run."""


@dataclass(frozen=True, eq=False)
class _Held:
    """The pages that a sequence looks at: each layer's keys and values in parts.

    Where there are more runs than `MOST_RUNS`, `parts` is empty and `index` has the pages' numbers.
    """

    cache: KVCache
    parts: tuple[tuple[_Parts, _Parts], ...]
    index: Tensor | None

    @staticmethod
    def of(cache: KVCache, slot: int, tiles: int) -> _Held:
        """Return views of the first `tiles` pages of a slot."""
        known = cache.remembered(slot)
        if (parts := known.get(tiles)) is not None:
            return _Held(cache, parts, None)
        runs = cache.runs(slot, tiles)
        if len(runs) > MOST_RUNS:
            return _Held(cache, (), cache.table[slot, :tiles])
        keys, values = zip(*(_views(cache.data, run) for run in runs), strict=True)
        layers = zip(zip(*keys, strict=True), zip(*values, strict=True), strict=True)
        known.clear()
        known[tiles] = parts = tuple(layers)
        return _Held(cache, parts, None)

    def of_layer(self, layer: int, dtype: torch.dtype) -> tuple[_Parts, _Parts]:
        """Return the keys [tiles * kv_heads, head_dim, KEY_TILE] and the values, the other way
        round.
        """
        if self.index is None:
            keys, values = self.parts[layer]
        else:
            cache, index = self.cache, self.index
            keys = (cache.keys[layer].index_select(0, index).flatten(0, 1).mT,)
            values = (cache.values[layer].index_select(0, index).flatten(0, 1),)
        if values[0].dtype == dtype:
            return keys, values
        return tuple(part.to(dtype) for part in keys), tuple(part.to(dtype) for part in values)


def _views(data: Tensor, run: tuple[int, int]) -> tuple[_Parts, _Parts]:
    """Return each layer's keys and values of pages in a row, as `_Held.of_layer` does."""
    seen = data.narrow(2, *run).flatten(2, 3)
    return seen[0].transpose(2, 3).unbind(), seen[1].unbind()


def _first_of(parts: _Parts, count: int) -> _Parts:
    """Return the first `count` products' worth of the parts."""
    found = []
    for part in parts:
        if count > 0:
            found.append(part[:count])
        count -= len(part)
    return tuple(found)


class _Sequence:
    """One sequence of a forward: where its rows go in the cache, and the tiles that they look at.

    Few rows are one piece, made once for all layers; sequences of one length share its bias through
    `biases`. Of many rows only masks are kept, as far as there is room for them. `prompt` is the
    length of its prompt where the pattern asks for it, else 0.
    """

    def __init__(
        self,
        plan: Plan,
        cache: KVCache,
        slot: int,
        length: int,
        prompt: int,
        biases: dict[tuple[int, int], Tensor],
        scratch: Scratch,
    ) -> None:
        rows = plan.layout.size
        end = length + rows
        cache.claim(slot, end)
        pages = cache.pages(slot)
        self.targets = tuple(
            (first - length, last - first, *_layers(cache.data, pages, first, last))
            for first, last in _tile_by_tile(length, end)
        )
        self.plan, self.cache, self.length, self.scratch = plan, cache, length, scratch
        self.prompt = prompt
        self.tiles = -(-end // KEY_TILE)
        self.held = _Held.of(cache, slot, self.tiles)
        self.wide = _wide(cache.dtype)
        self.shared = cache.config.num_heads // cache.config.num_kv_heads
        self.cut = line_cut(
            cache.config.num_kv_heads,
            cache.config.head_dim,
            self.wide,
            cache.device,
            torch.get_num_threads(),
        )
        self.parts = tuple(
            slice(start, min(start + QUERY_TILE, rows)) for start in range(0, rows, QUERY_TILE)
        )
        self.masks: dict[int, _Mask] = {}
        self.piece: _Piece | None = None
        if len(self.parts) == 1:
            if (length, prompt) not in biases:
                biases[length, prompt] = self._bias_of_all()
            self.piece = self._piece(rows, biases[length, prompt])
        else:
            seen = rows if plan.pattern.sees_prefix else end
            kept = MASK_ROOM // (QUERY_TILE * seen)
            self.masks = {part.start: self._mask(part) for part in self.parts[:kept]}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, factor: Tensor
    ) -> Tensor:
        """Write the rows' keys and values; return [R, heads * head_dim]."""
        key, value = key.transpose(0, 1), value.transpose(0, 1)
        for first, count, keys, values in self.targets:
            keys[layer].copy_(key.narrow(1, first, count))
            values[layer].copy_(value.narrow(1, first, count))
        seen, read = self.held.of_layer(layer, self.wide)
        if self.piece is not None:
            return self.piece.attend(query, factor, seen, read)
        found = torch.empty(
            (query.shape[0], query.shape[1] * query.shape[2]), dtype=self.wide, device=query.device
        )
        for rows in self.parts:
            mask = self.masks.get(rows.start) or self._mask(rows)
            own = bias_of(mask.own, query.device, self.wide)
            cached = mask.cached
            if cached is not None:
                cached = bias_of(cached, query.device, self.wide)
            piece = self._piece(rows.stop - rows.start, self._lines(own, cached, mask.tiles))
            used = mask.tiles * self.cache.config.num_kv_heads
            found[rows] = piece.attend(
                query[rows], factor[rows], _first_of(seen, used), _first_of(read, used)
            )
            del piece, own, cached  # before the next ones are made
        return found

    def _piece(self, rows: int, bias: Tensor) -> _Piece:
        tiles = bias.shape[1] // KEY_TILE
        if len(self.parts) == 1:
            room = self.scratch.room(rows, tiles, self.cut)
        else:  # each is another size, and used once a layer
            room = Room.of(self.scratch.heads, rows, tiles, self.cut)
        return _Piece(room, bias.view(-1, tiles, KEY_TILE), self.cut, blind=self.plan.blind)

    def _mask(self, rows: slice) -> _Mask:
        device = self.cache.device
        layout, pattern, length = self.plan.layout, self.plan.pattern, self.length
        if pattern.sees_prefix:
            _, own = visible(layout, pattern, 0, rows)
            seen = own.any(0).nonzero()
            last = length + int(seen[-1]) if len(seen) else max(length - 1, 0)
            return _Mask(None, own.to(device), last // KEY_TILE + 1)
        cached, own = visible(layout, pattern, length, rows, self.prompt)
        seen = torch.cat((cached.any(0), own.any(0))).nonzero()
        last = int(seen[-1]) if len(seen) else 0
        return _Mask(cached.to(device), own.to(device), last // KEY_TILE + 1)

    def _bias_of_all(self) -> Tensor:
        """Return the bias of all rows, where they are few."""
        plan, device = self.plan, self.cache.device
        if plan.own is not None and plan.pattern.sees_prefix:
            if self.length:
                lines = sum(cut(plan.layout.size * self.shared, self.cut.sizes))
                kept = self.scratch.bias(plan, lines, self.length, self.tiles)
                if kept is not None:
                    return kept
            return self._lines(plan.own, None, self.tiles)
        cached, own = visible(plan.layout, plan.pattern, self.length, prompt=self.prompt)
        return self._lines(
            bias_of(own, device, self.wide), bias_of(cached, device, self.wide), self.tiles
        )

    def _lines(self, own: Tensor, cached: Tensor | None, tiles: int) -> Tensor:
        """Return the bias of `_Piece`, [lines, keys of so many tiles].

        It is made of what some rows see of the rows, [n, R], and of the prefix, [n, length]; None:
        all of that.
        """
        rows, first, end = (
            own.shape[0],
            self.length,
            min(self.length + own.shape[1], tiles * KEY_TILE),
        )
        lines = sum(cut(rows * self.shared, self.cut.sizes))
        bias = own.new_zeros(lines, tiles * KEY_TILE)
        used = bias[: rows * self.shared].view(rows, self.shared, -1)
        used[:, :, first:end] = own[:, : max(end - first, 0)].unsqueeze(1)
        used[:, :, end:] = -math.inf
        if cached is not None:
            used[:, :, :first] = cached[:, : used.shape[2]].unsqueeze(1)
        return bias


class _Piece:
    """Some rows of a sequence, and room to compute their attention in.

    A line is a row and one of the query heads that share a key head. Every product has the lines of
    one of the sizes of `cut`, which agree bit for bit, and one tile of keys, so that a row's bits
    depend neither on the other rows nor on keys that it does not see. `bias` [lines, tiles,
    KEY_TILE] holds 0 and -inf. With `blind`, a row that sees nothing gets zeros.
    """

    def __init__(self, room: Room, bias: Tensor, how: Cut, *, blind: bool) -> None:
        self.blind = blind
        self.at_once = how.at_once
        self.trees = how.trees
        self.room = room
        self.bias = (bias,) if len(room.sizes) == 1 else torch.split(bias, list(room.sizes))

    def attend(self, query: Tensor, factor: Tensor, keys: _Parts, values: _Parts) -> Tensor:
        """Return softmax(query keys + bias) values: [R, heads * head_dim].

        `query` [R, heads, head_dim], scaled by `factor` [R, 1, 1] here; `keys`
        [tiles * kv_heads, head_dim, KEY_TILE], `values` [tiles * kv_heads, KEY_TILE, head_dim],
        both in parts.
        """
        lines, sizes, by_row = self.room.lines, self.room.sizes, self.room.rows.shape
        torch.mul(query.view(by_row), factor.unsqueeze(3), out=self.room.rows)
        attend = self._tile_by_trees if self.trees else self._tile
        if len(sizes) == 1:
            found = attend(lines, self.bias[0], keys, values)
        else:
            tiles = zip(torch.split(lines, list(sizes), 1), self.bias, strict=True)
            found = torch.cat([attend(*tile, keys, values) for tile in tiles], 1)
        rows, kv_heads, shared, dim = by_row
        found = found.narrow(1, 0, rows * shared).view(kv_heads, rows, shared, dim)
        return found.transpose(0, 1).reshape(rows, -1)

    def _tile(self, lines: Tensor, bias: Tensor, keys: _Parts, values: _Parts) -> Tensor:
        """Return [kv_heads, n, head_dim] for the n lines of one product."""
        size = lines.shape[1]
        repeated, scores = self.room.by_size[size]
        by_tile = repeated.shape[:3]
        seen = self._products(repeated.copy_(lines).flatten(0, 1), keys)
        seen = seen.view(*by_tile, KEY_TILE)
        torch.add(seen.permute(1, 2, 0, 3), bias, out=scores)
        del seen  # each of these is large behind a long prefix
        weights = torch.softmax(scores.flatten(2), -1)
        if self.blind:
            weights = weights.nan_to_num(nan=0.0)
        weights = weights.view(scores.shape).permute(2, 0, 1, 3).reshape(-1, size, KEY_TILE)
        parts = self._products(weights, values)
        return parts.view(*by_tile, -1).sum(0)

    def _tile_by_trees(self, lines: Tensor, bias: Tensor, keys: _Parts, values: _Parts) -> Tensor:
        """Do the same where softmax and sums take another way for another number of keys."""
        repeated, _ = self.room.by_size[lines.shape[1]]
        by_tile = repeated.shape[:3]
        seen = self._products(repeated.copy_(lines).flatten(0, 1), keys)
        scores = seen.view(*by_tile, KEY_TILE).add_(bias.transpose(0, 1).unsqueeze(1))
        top = scores.amax((0, 3), keepdim=True)
        if self.blind:
            top = top.masked_fill(top.isneginf(), 0.0)
        weights = scores.sub_(top).exp_()
        parts = self._products(weights.flatten(0, 1), values)
        total = sum_by_halves(sum_of_tiles(weights))
        if self.blind:
            total = total.masked_fill(total == 0, 1.0)
        return sum_of_tiles(parts.view(*by_tile, -1)) / total.unsqueeze(-1)

    def _products(self, left: Tensor, right: _Parts) -> Tensor:
        """Return the products with all parts, which lie where they do."""
        if len(right) == 1:
            return products(left, right[0], self.at_once)
        parts = torch.split(left, [len(part) for part in right])
        both = zip(parts, right, strict=True)
        return torch.cat([products(mine, part, self.at_once) for mine, part in both])


def sum_of_tiles(x: Tensor) -> Tensor:
    """Sum over dim 0, pair by pair: zeros behind change no bits. Overwrites `x`."""
    while (count := x.shape[0]) > 1:
        pairs = count // 2 * 2
        x[0:pairs:2].add_(x[1:pairs:2])
        x = x[0::2]
    return x[0]


def sum_by_halves(x: Tensor) -> Tensor:
    """Sum over the last dim, a power of two, half upon half."""
    while (count := x.shape[-1]) > 1:
        x = x[..., : count // 2] + x[..., count // 2 :]
    return x.squeeze(-1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _tile_by_tile(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the runs of `first` to `last` that lie in one tile of the cache each."""
    while first < last:
        end = min(last, (first // KEY_TILE + 1) * KEY_TILE)
        yield first, end
        first = end


def _layers(
    data: Tensor, pages: tuple[int, ...], first: int, last: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return each layer's keys and values of a run within a tile, [kv_heads, n, head_dim]."""
    tile, row = divmod(first, KEY_TILE)
    keys, values = data[:, :, pages[tile], :, row : row + last - first]
    return keys.unbind(), values.unbind()
