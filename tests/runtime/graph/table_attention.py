"""Attention that reads pages and lengths where a device has them, as the kernels do, in torch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import KVCache, Places
from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.model.attention import Attention
from nldc.runtime.model.backend import Choice, Chooser
from nldc.runtime.model.scores import Scores
from nldc.runtime.model.torch_backend import TorchBackend
from nldc.runtime.rows.pattern import RowFacts
from nldc.runtime.rows.plan import Plan
from tests.runtime.drawn import drawn


class TableAttention:
    """Attention over as many keys as the longest of `places` has on the host, masked beyond each.

    The keys that a row sees are taken page by page, in order: what is masked adds zeros.
    """

    def __init__(self, plan: Plan, cache: KVCache, places: Places) -> None:
        config, rows = cache.config, plan.layout.size
        self.cache, self.rows = cache, rows
        self.shared = config.num_heads // config.num_kv_heads
        table = cache.table
        keys = max(places.lengths) + rows
        self.tiles = min(-(-keys // KEY_TILE), table.shape[1])
        start, device = places.start.unsqueeze(1), cache.device
        targets = start + torch.arange(rows, device=device)
        self.table = table.index_select(0, places.slot_index)[:, : self.tiles].long()
        self.pages = table[places.slot_index.unsqueeze(1), targets // KEY_TILE].long()
        self.lines = targets % KEY_TILE
        place = (
            torch.arange(self.tiles * KEY_TILE, device=device) - start
        )  # of keys, from the prefix's end
        self.there = place < rows
        facts = plan.facts.long()
        own = facts[place.clamp(0, rows - 1)]
        cached = place < 0
        columns = own.masked_fill(cached.unsqueeze(-1), -1).unbind(-1)
        names = ("kind", "group", "index", "row", "position")
        query = dict(zip(names, (each.view(1, -1, 1) for each in facts.unbind(1)), strict=True))
        key = {name: column.unsqueeze(1) for name, column in zip(names, columns, strict=True)}
        key["position"] = torch.where(cached, place, own[..., 4]).unsqueeze(1)
        none = torch.zeros((1, rows, 1), dtype=torch.bool, device=device)
        prompt = torch.zeros_like(cached)
        if plan.pattern.asks_prompt:
            assert places.begin is not None
            prompt = cached & (place < places.begin.unsqueeze(1) - start)
        seen = plan.pattern.mask(
            RowFacts(**query, prefix=none),
            RowFacts(**key, prefix=cached.unsqueeze(1), prompt=prompt.unsqueeze(1)),
        )
        self.sees = torch.as_tensor(seen) & self.there.unsqueeze(1)

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, factor: Tensor
    ) -> Tensor:
        """See `attention.Attention`."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        shape = (*self.lines.shape, *key.shape[1:])
        keys[self.pages, :, self.lines] = key.reshape(shape)
        values[self.pages, :, self.lines] = value.reshape(shape)
        count, heads, dim = query.shape
        size, kv_heads = len(self.pages), heads // self.shared
        scaled = (query * factor).view(size, self.rows, kv_heads, self.shared, dim)
        scaled = scaled.permute(0, 2, 3, 1, 4)  # [B, kv_heads, shared, R, dim]
        scores, read = [], []
        for tile in range(self.tiles):
            here = slice(tile * KEY_TILE, (tile + 1) * KEY_TILE)
            page = self.table[:, tile]
            there = self.there[:, None, here, None]
            own = keys[page].masked_fill(~there, 0).unsqueeze(2)
            read.append(values[page].masked_fill(~there, 0).unsqueeze(2))
            score = scaled @ own.mT
            scores.append(score.masked_fill(~self.sees[:, None, None, :, here], -torch.inf))
        top = torch.stack([score.amax(-1) for score in scores]).amax(0).unsqueeze(-1)
        top = top.masked_fill(top.isneginf(), 0)
        total = torch.zeros_like(top)
        found = torch.zeros_like(scaled)
        for score, own in zip(scores, read, strict=True):
            weight = (score - top).exp()
            total = total + weight.sum(-1, keepdim=True)
            found = found + weight @ own
        found = found / total.masked_fill(total == 0, 1)
        return found.permute(0, 3, 1, 2, 4).reshape(count, heads * dim)


class TableBackend(TorchBackend):
    """As torch's, but for the attention: nothing of a forward is measured by a length."""

    capturable = True

    def attention(self, plan: Plan, cache: KVCache, places: Places) -> Attention:
        """Return the attention of one forward."""
        return TableAttention(plan, cache, places)

    def choose(self, values: Tensor, choice: Choice) -> Tensor:
        """See `Backend`."""
        return drawn(values, choice)

    def head_choose(self, states: Tensor, choice: Choice) -> Tensor:
        """See `Backend`."""
        logits = self.head(states)
        return drawn(logits.view(*choice.positions.shape, logits.shape[-1]), choice)

    def head_choose_scored(
        self, states: Tensor, choice: Choice | Chooser, scores: Scores
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `Backend`."""
        own = partial(drawn, choice=choice) if isinstance(choice, Choice) else choice
        return super().head_choose_scored(states, own, scores)
