"""The thinking budget: one token of a sequence that must end its thinking, unless that has ended.

The rule. Generated token number N (from 0; N = `max_thinking_tokens`) is `end_think_token_id`,
unless one of the generated tokens before it is. It is applied to the logits of the row that
predicts that place, where the token is sampled. "Before it" means what the row saw: the cached
prefix, and the rows of its own forward that it sees at earlier positions. A row that verifies sees
exactly what AR's row sees, so the rule decides as it does for AR, with no proof of its own. In a
block filled in both directions the budget holds as well, unless the strategy later replaces the row
that ended thinking (token editing), and rows before that place may see it coming.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.attention import Plan, row_facts
from nldc.runtime.errors import PromptError
from nldc.runtime.kv_cache import Places


@dataclass(frozen=True)
class ThinkingLimit:
    """At most `tokens` generated tokens come before the first `end`, whatever the mode."""

    tokens: int
    end: int


def thinking_limit(
    tokens: int | None, end: int | None, vocabulary: int, mask_token_id: int
) -> ThinkingLimit | None:
    """Return the limit, None if there is no limit.

    Raises:
        PromptError: one of the two numbers is missing or out of its range.
    """
    if tokens is None and end is not None:
        raise PromptError(
            f"end_think_token_id {end!r} has no effect without max_thinking_tokens",
            "give both, or neither",
        )
    if tokens is None:
        return None
    if not _whole(tokens) or tokens < 0:
        raise PromptError(
            f"max_thinking_tokens {tokens!r} is not allowed", "use a whole number, or None"
        )
    if end is None:
        raise PromptError(
            "max_thinking_tokens needs the token that ends thinking",
            "give end_think_token_id; the checkpoint names none",
        )
    if not _whole(end) or not 0 <= end < vocabulary:
        raise PromptError(
            f"end_think_token_id {end!r} is no token",
            f"ids of this model lie between 0 and {vocabulary - 1}",
        )
    if end == mask_token_id:
        raise PromptError(
            f"end_think_token_id {end} is the mask token", "masked rows would end thinking"
        )
    return ThinkingLimit(tokens, end)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class ThinkingBudget:
    """A limit, and the token ids behind every row of a cache of `slots` by `capacity` rows."""

    def __init__(
        self, limit: ThinkingLimit, slots: int, capacity: int, device: torch.device
    ) -> None:
        self.limit = limit
        self._tokens = torch.zeros((slots, capacity), dtype=torch.int64, device=device)
        self._sights: weakref.WeakKeyDictionary[Plan, Tensor] = weakref.WeakKeyDictionary()

    def due(self, tokens: Tensor, plan: Plan, places: Places, prompts: Sequence[int]) -> Tensor:
        """Return which rows of a forward predict a token that must end thinking, bool [B, R].

        `tokens` [B, R] are the rows' ids; `prompts` the lengths of the sequences' prompts.
        """
        device, end = tokens.device, self.limit.end
        slots = places.slot_index.unsqueeze(1)
        start = places.start.unsqueeze(1)
        begin = torch.tensor(prompts, dtype=torch.int64, device=device).unsqueeze(1)
        behind = start + torch.arange(tokens.shape[1], device=device)
        self._tokens[slots, behind] = tokens
        place = torch.arange(self._tokens.shape[1], device=device)
        cached = (self._tokens[places.slot_index] == end) & (place >= begin) & (place < start)
        ended = cached.any(1, keepdim=True)
        position = start + plan.offset
        first = _first_generated(plan, places, prompts)
        if first < tokens.shape[1]:
            hits = (tokens == end) & (position >= begin)
            sights = self._sight(plan, first)
            ended = ended | (hits[:, first:].to(sights.dtype) @ sights.T > 0)
        return (position + plan.ahead == begin + self.limit.tokens) & ~ended

    def _sight(self, plan: Plan, first: int) -> Tensor:
        """Return which rows see which of the rows from `first` on before their place, [R, n]."""
        known = self._sights.get(plan) if first == 0 else None
        if known is not None:
            return known
        layout = plan.layout
        query = row_facts(layout, slice(None), as_keys=False)
        key = row_facts(layout, slice(first, None), as_keys=True)
        earlier = key.position < query.position + layout.predicts_next.unsqueeze(1)
        sees = torch.as_tensor(plan.pattern.mask(query, key), dtype=torch.bool)
        sight = (earlier & sees).to(torch.float32).to(plan.offset.device)
        if first == 0:
            self._sights[plan] = sight
        return sight

    def ending(self, due: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the logits processor that leaves due rows, bool [B, n], one token to choose."""

        def process(logits: Tensor, _positions: Tensor) -> Tensor:
            only = logits.new_full((logits.shape[-1],), -math.inf)
            only[self.limit.end] = 0.0
            return torch.where(due.unsqueeze(-1), only, logits)

        return process


def _first_generated(plan: Plan, places: Places, prompts: Sequence[int]) -> int:
    """Return the first row that may hold a generated token: a prompt's own rows come first."""
    nearest = min(prompt - length for prompt, length in zip(prompts, places.lengths, strict=True))
    generated = (plan.layout.offset >= nearest).nonzero()
    return int(generated[0]) if len(generated) else plan.layout.size
