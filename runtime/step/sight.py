"""What the rows of a forward saw of the text, for processors that look at the tokens so far.

A row saw the cached prefix, and of its own forward the rows that its pattern shows it at earlier
positions. A row that verifies a draft saw exactly what AR's row sees, so a processor decides there
as it does for AR; a row that drafts saw the draft's tokens before it, as far as they are known.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nldc.runtime.cache.capacity import grown, slots_for
from nldc.runtime.cache.kv_cache import Places, moves
from nldc.runtime.rows.pattern import row_facts
from nldc.runtime.rows.plan import QUERY_TILE, Plan

UNSEEN = -1
"""Stands for a token that a row did not see: at its own place and behind, or masked."""
STEP = 256


class TextTable:
    """The token ids behind every row of a cache, `ids` int64 [slots, rows]; it grows.

    What is no token of the text is `UNSEEN`: masks, rows that stand for embeddings, codes.
    """

    def __init__(self, vocabulary: int, mask_token_id: int, device: torch.device) -> None:
        self.ids = torch.empty((0, 0), dtype=torch.int64, device=device)
        self._vocabulary = vocabulary
        self._mask = mask_token_id

    def write(self, tokens: Tensor, places: Places) -> Tensor:
        """Enter the ids [B, R] of a forward's rows; return them as the table has them."""
        is_text = (tokens >= 0) & (tokens < self._vocabulary) & (tokens != self._mask)
        ids = torch.where(is_text, tokens, UNSEEN)
        self.reserve(max(places.slots) + 1, max(places.lengths) + ids.shape[1])
        behind = places.start.unsqueeze(1) + torch.arange(ids.shape[1], device=ids.device)
        self.ids[places.slot_index.unsqueeze(1), behind] = ids
        return ids

    def move(self, places: Places, path: Tensor, keep: Tensor) -> None:
        """Let ids behind places, the first `keep` [B] of `path` [B, r], be the first there."""
        of, to = moves(path, keep)
        slot, start = places.slot_index.unsqueeze(1), places.start.unsqueeze(1)
        self.ids[slot, start + to] = self.ids[slot, start + of]

    def prefix(self, places: Places) -> Tensor:
        """Return the ids behind the cached prefixes, [B, longest], `UNSEEN` behind their ends.

        There is one column where no prefix has a row.
        """
        length = max(1, *places.lengths)
        cached = self.ids[places.slot_index, :length]
        place = torch.arange(length, device=cached.device)
        return cached.masked_fill(place >= places.start.unsqueeze(1), UNSEEN)

    def reserve(self, slots: int, rows: int) -> None:
        """Have room for so many slots and rows."""
        lines, width = self.ids.shape
        if rows > width:
            width = max(STEP, 2 * width, rows)
        self.ids = grown(self.ids, slots_for(slots, lines), width, UNSEEN)


@dataclass(frozen=True, eq=False)
class Sight:
    """What some rows of one forward saw.

    `tokens` and `positions`, int64 [B, R], are those of all rows of the forward, `cached` [B, L]
    the ids of the prefix. The rows are those of the slice `rows`, the same of every sequence, and
    of those for each sequence the ones in `picked` [B, n] (None: all).
    """

    plan: Plan
    tokens: Tensor
    positions: Tensor
    cached: Tensor
    rows: slice = field(default_factory=lambda: slice(None))
    picked: Tensor | None = None

    def take(self, index: slice) -> Sight:
        """Return the same rows of every sequence."""
        if self.picked is not None:
            return replace(self, picked=self.picked[:, index])
        taken = range(self.tokens.shape[1])[self.rows][index]
        stop: int | None = taken.start + len(taken) * taken.step
        return replace(self, rows=slice(taken.start, stop, taken.step))

    def gather(self, index: Tensor) -> Sight:
        """Return rows by number, int64 [B, n], each sequence its own."""
        return replace(self, picked=index if self.picked is None else self.picked.gather(1, index))

    def of(self, sequences: slice | Tensor) -> Sight:
        """Return what the rows of some sequences saw."""
        picked = None if self.picked is None else self.picked[sequences]
        return replace(
            self,
            tokens=self.tokens[sequences],
            positions=self.positions[sequences],
            cached=self.cached[sequences],
            picked=picked,
        )

    def text(self) -> Tensor:
        """Return int64 [B, n, length]: the token at each position as a row saw it, or `UNSEEN`."""
        sees = seen_before(self.plan, self.rows)
        size, count = len(self.tokens), len(sees)
        length = self.cached.shape[1] + self.plan.reach + 1
        seen = self.tokens.new_full((size, count, length), UNSEEN)
        seen[:, :, : self.cached.shape[1]] = self.cached.unsqueeze(1)
        own = torch.where(sees, self.tokens.unsqueeze(1), UNSEEN)
        places = self.positions.unsqueeze(1).expand(-1, count, -1)
        seen.scatter_reduce_(2, places, own, "amax")
        if self.picked is None:
            return seen
        return seen.gather(1, self.picked.unsqueeze(2).expand(-1, -1, length))


_KNOWN: weakref.WeakKeyDictionary[Plan, dict[tuple[int, ...], Tensor]] = weakref.WeakKeyDictionary()


def seen_before(plan: Plan, rows: slice, first: int = 0) -> Tensor:
    """Return which rows see which rows from `first` on before their own place, bool [n, m].

    It lies where the plan does. That of a plan of few rows is put there once: a step uploads none.
    """
    layout = plan.layout
    if layout.size > QUERY_TILE:
        return _seen_before(plan, rows, first)
    known = _KNOWN.setdefault(plan, {})
    key = rows.indices(layout.size)
    if key not in known:
        known[key] = _seen_before(plan, rows, 0)
    return known[key][:, first:]


def _seen_before(plan: Plan, rows: slice, first: int) -> Tensor:
    layout = plan.layout
    query = row_facts(layout, rows, as_keys=False)
    key = row_facts(layout, slice(first, None), as_keys=True)
    earlier = key.position < query.position + layout.predicts_next[rows].unsqueeze(1)
    sees = torch.as_tensor(plan.pattern.mask(query, key), dtype=torch.bool)
    return (earlier & sees).to(plan.offset.device)
