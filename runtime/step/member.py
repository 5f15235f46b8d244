"""A sequence of a batch, as whoever runs the batch knows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.thinking import NO_MARK, NOWHERE, ThinkingLimit, Thoughts

NO_END = -3
"""Fills a row of ends: the id of no token, nor a code in place of one."""


@dataclass(frozen=True, eq=False)
class Member:
    """What one sequence brings to every forward and choice; nothing of it changes while it lives.

    `slot` is its place in the cache, `key` keys its noise. `sampling` says how its tokens are
    chosen, processors included, and `eos` which ids end it, the first first. Its prompt has
    `prompt_length` tokens, of which `embeddings` [P, hidden] stand in for the tokens' own; no token
    lies behind `last_position`. `thinking` is its budget, and `thought` where the thought at the
    prompt's end begins, see `ThinkingLimit.thought`. `history` returns every token so far.
    """

    slot: int
    key: int
    sampling: Sampling = field(default_factory=Sampling)
    eos: tuple[int, ...] = ()
    prompt_length: int = 1
    last_position: int = 2**62
    thinking: ThinkingLimit | None = None
    thought: int | None = None
    embeddings: Tensor | None = None
    history: Callable[[], list[int]] = list


def ends_of(eos: Sequence[tuple[int, ...]], device: torch.device) -> Tensor:
    """Return the ids that end each sequence, int64 [B, most], with `NO_END` behind them."""
    most = max(1, *map(len, eos))
    rows = [[*ids, *[NO_END] * (most - len(ids))] for ids in eos]
    return torch.tensor(rows, dtype=torch.int64, device=device)


def thoughts_of(members: Sequence[Member], device: torch.device) -> Thoughts | None:
    """Return the thinking budgets of members, None if no one has any."""
    if all(member.thinking is None for member in members):
        return None
    rows = []
    for member in members:
        limit = member.thinking
        thought = None if limit is None else member.thought
        rows.append(
            (
                member.prompt_length,
                NOWHERE if thought is None else thought,
                0 if limit is None else limit.tokens,
                NO_MARK if limit is None or limit.start is None else limit.start,
                NO_MARK if limit is None else limit.end,
            )
        )
    begin, opened, limits, start, end = torch.tensor(rows, device=device).unsqueeze(-1).unbind(1)
    return Thoughts(
        prompts=tuple(member.prompt_length for member in members),
        begin=begin,
        opened=opened,
        limit=limits,
        start=start,
        end=end,
        starts=any(m.thinking is not None and m.thinking.start is not None for m in members),
    )
