"""The thinking budget: one token of a sequence that must end its thinking, unless that has ended.

The rule. A thought begins at a `start` token and ends at an `end` token. When N tokens of it have
come (N = `max_thinking_tokens`), the next is `end`, unless one of them is. A prompt is inside a
thought if a start stands behind its last end; that thought counts from its last start, and ends at
once where the prompt has used its tokens up. Where no start token is known, and where a prompt is
given as embeddings only, an answer begins with a thought: generated token N (from 0) is `end`,
unless one before it is.

It is applied to the logits of the row that predicts that place, where the token is sampled. The
tokens that have come are those that the row saw: the cached prefix, and the rows of its own forward
that it sees at earlier positions. A row that verifies sees exactly what AR's row sees, so the rule
decides as it does for AR, with no proof of its own. In a block filled in both directions the budget
holds as well, unless the strategy later replaces the row that ended thinking (token editing), and
rows before that place may see it coming.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor

from nldc.runtime.cache.kv_cache import Places
from nldc.runtime.errors import PromptError
from nldc.runtime.rows.plan import Plan
from nldc.runtime.step.sight import seen_before

NOWHERE = -1
NO_MARK = -3
"""The id of no token, nor a code in place of one."""
FAR = 1 << 62


@dataclass(frozen=True)
class ThinkingLimit:
    """At most `tokens` tokens come between a `start` of thinking and its `end`, in any mode.

    Without a `start` that is known, the thought begins where the answer does.
    """

    tokens: int
    end: int
    start: int | None = None

    def thought(self, prompt: Sequence[int]) -> int | None:
        """Return the place of the token that began the thought at a prompt's end, None: none did.

        It is the last token of the prompt where no start is known.
        """
        if self.start is None:
            return len(prompt) - 1
        for place in range(len(prompt) - 1, -1, -1):
            if prompt[place] in (self.start, self.end):
                return place if prompt[place] == self.start else None
        return None


def thinking_limit(
    tokens: int | None,
    end: int | None,
    vocabulary: int,
    mask_token_id: int,
    start: int | None = None,
) -> ThinkingLimit | None:
    """Return the limit, None if there is no limit.

    Raises:
        PromptError: one of the numbers is missing or out of its range.
    """
    marks = {"end_think_token_id": end, "start_think_token_id": start}
    if tokens is None:
        for name, token in marks.items():
            if token is not None:
                raise PromptError(
                    f"{name} {token!r} has no effect without max_thinking_tokens",
                    "give both, or neither",
                )
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
    for name, token in marks.items():
        if token is None and name == "start_think_token_id":
            continue
        if not _whole(token) or not 0 <= token < vocabulary:
            raise PromptError(
                f"{name} {token!r} is no token",
                f"ids of this model lie between 0 and {vocabulary - 1}",
            )
        if token == mask_token_id:
            raise PromptError(
                f"{name} {token} is the mask token", "a masked row is no mark of thinking"
            )
    if start == end:
        raise PromptError(f"token {end} both starts and ends thinking", "give two different tokens")
    return ThinkingLimit(tokens, end, start)


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True, eq=False)
class Thoughts:
    """The limits of a batch's sequences, int64 [B, 1] each, and where their texts begin.

    `begin` are the lengths of the prompts, on the host as `prompts`; `opened` the places where the
    thoughts at their ends began, NOWHERE for none and for sequences without a limit; `limit`,
    `start` and `end` those of `ThinkingLimit`, with NO_MARK for what is missing. `starts`: some
    sequence has a start.
    """

    prompts: tuple[int, ...]
    begin: Tensor
    opened: Tensor
    limit: Tensor
    start: Tensor
    end: Tensor
    starts: bool


def due_rows(
    tokens: Tensor, plan: Plan, places: Places, cached: Tensor, thoughts: Thoughts
) -> Tensor:
    """Return which rows of a forward predict a token that must end thinking, bool [B, R].

    `tokens` [B, R] are the rows' ids, `cached` [B, L] those behind the cached prefixes, of
    which only the rows before `places.start` count.
    """
    begin = thoughts.begin
    start = places.start.unsqueeze(1)
    place = torch.arange(cached.shape[1], device=tokens.device)
    inside = (place >= begin) & (place < start)
    ended = _last(place, inside & (cached == thoughts.end))
    began = torch.where(ended >= 0, NOWHERE, thoughts.opened)
    if thoughts.starts:
        again = inside & (cached == thoughts.start) & (place > ended)
        began = torch.where(began >= 0, began, _first(place, again))
    position = start + plan.offset
    first = _first_generated(plan, places, thoughts.prompts)
    if first < tokens.shape[1]:
        sees = seen_before(plan, slice(None), first)
        began = _within(tokens, position, began, first, sees, thoughts)
    last_place = torch.maximum(began + 1 + thoughts.limit, begin)
    return (began >= 0) & (position + plan.ahead == last_place)


def _within(
    tokens: Tensor,
    position: Tensor,
    began: Tensor,
    first: int,
    sees: Tensor,
    thoughts: Thoughts,
) -> Tensor:
    """Return where the thought of each row began, [B, R], by the rows of its own forward.

    `began` [B, 1] is what the cache says; `sees` bool [R, n] which of the rows from `first` on each
    row sees before its place.
    """
    ids, at = tokens[:, None, first:], position[:, None, first:]
    there = sees & (at >= thoughts.begin.unsqueeze(-1))
    ended = _last(at, there & (ids == thoughts.end.unsqueeze(-1))).squeeze(-1)
    began = torch.where(ended >= 0, NOWHERE, began)
    if not thoughts.starts:
        return began
    again = there & (ids == thoughts.start.unsqueeze(-1)) & (at > ended.unsqueeze(-1))
    return torch.where(began >= 0, began, _first(at, again).squeeze(-1))


def end_thought(logits: Tensor, due: Tensor, end: Tensor) -> Tensor:
    """Return logits [B, n, V] that leave due rows, bool [B, n], one token: `end` [B, 1]."""
    ids = torch.arange(logits.shape[-1], device=logits.device)
    only = torch.zeros((), dtype=logits.dtype, device=logits.device)
    only = only.masked_fill(ids != end, -math.inf).unsqueeze(1)
    return torch.where(due.unsqueeze(-1), only, logits)


def _last(place: Tensor, chosen: Tensor) -> Tensor:
    """Return the largest chosen place along the last dimension, which stays; NOWHERE if none is."""
    return torch.where(chosen, place, NOWHERE).amax(-1, keepdim=True)


def _first(place: Tensor, chosen: Tensor) -> Tensor:
    """Return the smallest chosen place along the last dimension, which stays; NOWHERE if none."""
    found = torch.where(chosen, place, FAR).amin(-1, keepdim=True)
    return torch.where(found == FAR, NOWHERE, found)


def _first_generated(plan: Plan, places: Places, prompts: Sequence[int]) -> int:
    """Return the first row that may hold a generated token: a prompt's own rows come first."""
    nearest = min(prompt - length for prompt, length in zip(prompts, places.lengths, strict=True))
    if nearest <= 0:  # no step comes before the end of its prompt
        return 0
    generated = (plan.layout.offset >= nearest).nonzero()
    return int(generated[0]) if len(generated) else plan.layout.size
