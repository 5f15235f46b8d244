"""The sequences that go through steps together, and what they bring as the device needs it.

Made once for as long as the same sequences stay together: a step uploads nothing of it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.model.backend import Drawing
from nldc.runtime.step.choose import Rules, grouped
from nldc.runtime.step.member import Member
from nldc.runtime.step.processors import wants_tokens
from nldc.runtime.step.sampling import Sampling
from nldc.runtime.step.thinking import NO_MARK, NOWHERE, Thoughts

NO_END = -3
"""Fills a line of ends: the id of no token, nor a code in place of one."""
FACTS = 12
"""How many numbers `facts_of` says of a member."""
ALL = 2**31 - 1
"""Above the tokens of any vocabulary."""


def facts_of(member: Member) -> tuple[int, ...]:
    """Return the numbers of a member: of its noise, its places, thinking budget and sampling."""
    seed, limit = member.sampling.seed, member.thinking
    opened = None if limit is None else member.thought
    return (
        member.key,
        seed - 2**64 if seed >= 2**63 else seed,
        member.last_position,
        member.prompt_length,
        NOWHERE if opened is None else opened,
        0 if limit is None else limit.tokens,
        NO_MARK if limit is None or limit.start is None else limit.start,
        NO_MARK if limit is None else limit.end,
        *_drawing_of(member.sampling),
    )


def _drawing_of(sampling: Sampling) -> tuple[int, ...]:
    """Return the numbers of a `Drawing`, floats as the whole numbers that have their bits."""
    top_k, top_p, reach = ALL, 1.0, -math.inf
    if sampling.filters:
        top_k = min(sampling.top_k or ALL, ALL)
        top_p = 1.0 if sampling.top_p is None else sampling.top_p
        reach = math.log(sampling.min_p) if sampling.min_p else reach
    heat, mass, far = struct.unpack("3q", struct.pack("3d", sampling.temperature, top_p, reach))
    return heat, top_k, mass, far


def ends_of(member: Member, most: int) -> list[int]:
    """Return the ids that end a member, `most` numbers with `NO_END` behind them."""
    return [*member.eos, *[NO_END] * (most - len(member.eos))]


@dataclass(frozen=True, eq=False)
class Lineup:
    """Members in order, with `slots` and, on the device, int64 [B], `slot_index`.

    `prompts` are the lengths of their prompts, on the device `begin`, a column of `facts` int64
    [B, FACTS]. `eos` int64 [B, e] are the ids that end each. `thoughts` is None where nobody has
    a thinking budget. `sees_tokens`: somebody has a processor that sees tokens; `embedded`:
    somebody's prompt is given as embeddings, `embedded_in_steps`: and rows of it may be computed in
    steps.
    """

    members: tuple[Member, ...]
    slots: tuple[int, ...]
    slot_index: Tensor
    prompts: tuple[int, ...]
    facts: Tensor
    begin: Tensor
    eos: Tensor
    rules: Rules
    thoughts: Thoughts | None
    sees_tokens: bool
    embedded: bool
    embedded_in_steps: bool

    @staticmethod
    def of(members: Sequence[Member], mask_token_id: int, device: torch.device) -> Lineup:
        """Return the lineup of members of which the device knows nothing yet."""
        most = max(1, *(len(member.eos) for member in members))
        return Lineup.known(
            members,
            torch.tensor([member.slot for member in members], device=device),
            torch.tensor([facts_of(member) for member in members], device=device),
            torch.tensor([ends_of(member, most) for member in members], device=device),
            mask_token_id,
        )

    @staticmethod
    def known(
        members: Sequence[Member],
        slot_index: Tensor,
        facts: Tensor,
        eos: Tensor,
        mask_token_id: int,
    ) -> Lineup:
        """Return the lineup of members whose `facts` [B, FACTS] and ends lie on the device."""
        keys, seeds, last, *more = facts.unsqueeze(-1).unbind(1)
        begin, opened, limit, start, end, *_ = more
        heat, _, top_p, reach = facts.view(torch.float64)[:, -4:].unbind(1)
        drawing = Drawing(heat, facts[:, -3], top_p, reach)
        prompts = tuple(member.prompt_length for member in members)
        budgets = [member.thinking for member in members if member.thinking is not None]
        thoughts = None
        if budgets:
            thoughts = Thoughts(
                prompts=prompts,
                begin=begin,
                opened=opened,
                limit=limit,
                start=start,
                end=end,
                starts=any(budget.start is not None for budget in budgets),
            )
        groups = grouped(members, facts.device)
        return Lineup(
            members=tuple(members),
            slots=tuple(member.slot for member in members),
            slot_index=slot_index,
            prompts=prompts,
            facts=facts,
            begin=begin.squeeze(1),
            eos=eos,
            rules=Rules(groups, keys.squeeze(1), seeds, drawing, last, end, mask_token_id),
            thoughts=thoughts,
            sees_tokens=any(
                wants_tokens(each) for member in members for each in member.sampling.processors
            ),
            embedded=any(member.embeddings is not None for member in members),
            embedded_in_steps=any(
                member.embeddings is not None and member.carries_prompt for member in members
            ),
        )
