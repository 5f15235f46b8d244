"""What the rows of a forward saw of the text, for processors that look at the tokens so far.

A row saw the cached prefix, and of its own forward the rows that its pattern shows it at earlier
positions. A row that verifies a draft saw exactly what AR's row sees, so a processor decides there
as it does for AR; a row that drafts saw the draft's tokens before it, as far as they are known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import Places
from nldc.runtime.rows.pattern import row_facts
from nldc.runtime.rows.plan import Plan

UNSEEN = -1
"""Stands for a token that a row did not see: at its own place and behind, or masked."""
STEP = 256


class TextTable:
    """The token ids behind every row of a cache of so many slots, [slots, rows]; it grows."""

    def __init__(self, slots: int, vocabulary: int, mask_token_id: int) -> None:
        self._ids = torch.empty((slots, 0), dtype=torch.int64)
        self._vocabulary = vocabulary
        self._mask = mask_token_id

    def write(self, tokens: Tensor, plan: Plan, places: Places) -> Sight:
        """Enter the ids [B, R] of a forward's rows; return what they see."""
        is_text = (tokens >= 0) & (tokens < self._vocabulary) & (tokens != self._mask)
        ids = torch.where(is_text, tokens, UNSEEN)
        end = max(places.lengths) + ids.shape[1]
        if self._ids.device != ids.device or self._ids.shape[1] < end:
            room = -(-end // STEP) * STEP
            grown = ids.new_full((self._ids.shape[0], room), UNSEEN)
            grown[:, : self._ids.shape[1]] = self._ids
            self._ids = grown
        behind = places.start.unsqueeze(1) + torch.arange(ids.shape[1], device=ids.device)
        self._ids[places.slot_index.unsqueeze(1), behind] = ids
        length = max(places.lengths)
        cached = self._ids[places.slot_index, :length]
        place = torch.arange(length, device=ids.device)
        cached = cached.masked_fill(place >= places.start.unsqueeze(1), UNSEEN)
        return Sight(plan, ids, places.start.unsqueeze(1) + plan.offset, cached)


@dataclass(frozen=True, eq=False)
class Sight:
    """What some rows of one forward saw.

    `tokens` and `positions`, int64 [B, R], are those of all rows of the forward, `cached` [B, L]
    the ids of the prefix. The rows are `rows` (None: all), the same of every sequence, and of those
    for each sequence the ones in `picked` [B, n] (None: all).
    """

    plan: Plan
    tokens: Tensor
    positions: Tensor
    cached: Tensor
    rows: Tensor | None = None
    picked: Tensor | None = None

    def take(self, index: slice | list[int]) -> Sight:
        """Return the same rows of every sequence."""
        if self.picked is not None:
            return replace(self, picked=self.picked[:, index])
        rows = torch.arange(self.tokens.shape[1]) if self.rows is None else self.rows
        return replace(self, rows=rows[index])

    def gather(self, index: Tensor) -> Sight:
        """Return rows by number, int64 [B, n], each sequence its own."""
        return replace(self, picked=index if self.picked is None else self.picked.gather(1, index))

    def text(self) -> Tensor:
        """Return int64 [B, n, length]: the token at each position as a row saw it, or `UNSEEN`."""
        layout = self.plan.layout
        rows = torch.arange(layout.size) if self.rows is None else self.rows
        query, key = (
            row_facts(layout, rows, as_keys=False),
            row_facts(layout, slice(None), as_keys=True),
        )
        ahead = layout.predicts_next[rows].unsqueeze(1)
        sees = torch.as_tensor(self.plan.pattern.mask(query, key), dtype=torch.bool)
        sees = (sees & (key.position < query.position + ahead)).to(self.tokens.device)
        size, count = len(self.tokens), len(rows)
        length = self.cached.shape[1] + self.plan.reach + 1
        seen = self.tokens.new_full((size, count, length), UNSEEN)
        seen[:, :, : self.cached.shape[1]] = self.cached.unsqueeze(1)
        own = torch.where(sees, self.tokens.unsqueeze(1), UNSEEN)
        places = self.positions.unsqueeze(1).expand(-1, count, -1)
        seen.scatter_reduce_(2, places, own, "amax")
        if self.picked is None:
            return seen
        return seen.gather(1, self.picked.unsqueeze(2).expand(-1, -1, length))
