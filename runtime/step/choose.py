"""Choosing tokens and scoring rows, of sequences that each say how: any batch does it by these.

Sequences that are sampled alike are one group, and their rows one call of torch's; a backend with
kernels reads instead how each is sampled, of a `Choice`. Nothing that a row gets depends on its
group: every product here is of one row. A processor is asked once for its group; if
that fails it is asked once more for each sequence, and hurts only those for which it fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nldc.runtime.errors import NldcRuntimeError
from nldc.runtime.model import scores
from nldc.runtime.model.backend import Choice, Drawing
from nldc.runtime.step.member import Member
from nldc.runtime.step.processors import ask
from nldc.runtime.step.sampling import LOWEST_TEMPERATURE, Sampling, draw, draw_at, filtered
from nldc.runtime.step.sight import Sight
from nldc.runtime.step.thinking import end_thought
from nldc.runtime.step.values import Choosing, Counting, Hidden, Logits, Scored

Temperature = float | Tensor | None
"""At what a drafter chooses: one for all, or float64 [B, 1]; None: at each sequence's own."""


@dataclass(frozen=True, eq=False)
class Group:
    """Sequences of a batch that are sampled alike: `members` are their numbers.

    `index` int64 [m] is the same on the device, None if they are the whole batch.
    """

    sampling: Sampling
    members: tuple[int, ...]
    index: Tensor | None


@dataclass(frozen=True, eq=False)
class Rules:
    """How the tokens of a batch's sequences are chosen.

    `keys` int64 [B] and `seeds` [B, 1] key their noise, and `drawing` is how each is sampled, as
    `groups` say; `last` [B, 1] are the last positions of which a processor is asked; `thought_ends`
    [B, 1] the tokens that end thinking.
    """

    groups: tuple[Group, ...]
    keys: Tensor
    seeds: Tensor
    drawing: Drawing
    last: Tensor
    thought_ends: Tensor
    mask_token_id: int

    @property
    def drawn(self) -> bool:
        """Whether somebody is sampled."""
        return any(group.sampling.temperature for group in self.groups)

    @property
    def filters(self) -> bool:
        """Whether something may go of what somebody is drawn of."""
        return any(group.sampling.filters for group in self.groups)

    @property
    def processed(self) -> bool:
        """Whether a processor looks at the logits of somebody."""
        return any(group.sampling.processors for group in self.groups)


def grouped(members: Sequence[Member], device: torch.device) -> tuple[Group, ...]:
    """Return the groups of members that are sampled alike but for their seeds."""
    found: dict[tuple[object, ...], list[int]] = {}
    for number, member in enumerate(members):
        found.setdefault(kind_of(member.sampling), []).append(number)
    if len(found) == 1:
        return (Group(members[0].sampling, tuple(range(len(members))), None),)
    return tuple(
        Group(members[numbers[0]].sampling, tuple(numbers), torch.tensor(numbers, device=device))
        for numbers in found.values()
    )


def kind_of(sampling: Sampling) -> tuple[object, ...]:
    """Return what is equal for samplings of one group: greedy ones have no filters."""
    processors = tuple(map(id, sampling.processors))
    if sampling.temperature == 0:
        return (0, *processors)
    filters = (sampling.top_k, sampling.top_p, sampling.min_p)
    return (sampling.temperature, *filters, *processors)


def sample(
    rules: Rules,
    failed: dict[int, NldcRuntimeError],
    logits: Logits,
    mask_token: Choosing = "allowed",
    temperature: Temperature = None,
) -> Tensor:
    """Return the chosen token of each row, int64 [B, n]: as AR would choose at its position.

    A row of which none can be chosen gives `NO_NUMBER` or `NOTHING_ALLOWED`, see `sampling.choose`.
    `mask_token` forbidden: the mask token is never chosen. Whatever binds the choice (filters,
    processors, the thinking budget) binds it here, and nowhere after. The errors of processors
    that fail are added to `failed`, by the number of their sequence. With a `temperature` it is
    not AR's choice but a drafter's, at that one instead of the sequence's own; the rest holds.
    """
    if isinstance(temperature, float):
        rules = at(rules, temperature)

    def chosen(group: Group, own: Logits) -> Tensor:
        values = own.values
        if mask_token == "forbidden":
            values = without_mask(rules, values)
        values = _processed(rules, failed, group, own, values)
        keys, seeds = (_of(group, each) for each in (rules.keys, rules.seeds))
        if isinstance(temperature, Tensor):
            each = _of(group, temperature)
            return draw_at(values, own.positions, keys, group.sampling, seeds, each)
        return draw(values, own.positions, keys, group.sampling, seeds)

    return _by_group(rules, logits, chosen)


def at(rules: Rules, temperature: float) -> Rules:
    """Return the rules of choices at another temperature than the sequences' own.

    Filters stay those of a sequence that is sampled; one that is greedy has none.
    """
    groups = rules.groups
    if temperature < LOWEST_TEMPERATURE:
        if len(groups) > 1 and not rules.processed:
            everyone = tuple(sorted(number for group in groups for number in group.members))
            groups = (Group(Sampling(), everyone, None),)
        temperature = 0.0
    return replace(rules, groups=tuple(replace(g, sampling=_at(g, temperature)) for g in groups))


def _at(group: Group, temperature: float) -> Sampling:
    own = group.sampling
    if own.temperature:
        return replace(own, temperature=temperature)
    return Sampling(temperature, seed=own.seed, processors=own.processors)


def choice_of(
    rules: Rules,
    rows: Hidden | Logits,
    mask_token: Choosing = "allowed",
    temperature: Temperature = None,
) -> Choice | None:
    """Return how `sample` chooses of the rows' logits, where these are all that it asks for.

    None where a processor must see them, or a thinking budget.
    """
    if rows.due is not None or rules.processed:
        return None
    positions, own, is_drawn = rows.positions, rules.drawing, rules.drawn
    if isinstance(temperature, Tensor):
        is_drawn, own = True, replace(own, temperature=temperature.squeeze(1))
    elif temperature is not None:
        is_drawn = temperature >= LOWEST_TEMPERATURE
        if is_drawn:
            own = replace(own, temperature=torch.full_like(own.temperature, temperature))

    def of(values: Tensor) -> Tensor:
        return sample(rules, {}, Logits(values, positions), mask_token, temperature)

    return Choice(
        positions=positions,
        keys=rules.keys,
        seeds=rules.seeds,
        drawing=own if is_drawn else None,
        filters=is_drawn and rules.filters,
        barred=rules.mask_token_id if mask_token == "forbidden" else None,
        of=of,
    )


def ended(rules: Rules, logits: Logits) -> Logits:
    """Return logits of which rows that are due leave nothing but the token that ends thinking."""
    if logits.due is None:
        return logits
    values = end_thought(logits.values, logits.due, rules.thought_ends)
    return replace(logits, values=values, due=None)


def probability(
    rules: Rules,
    failed: dict[int, NldcRuntimeError],
    logits: Logits,
    tokens: Tensor,
    of: Scored = "raw",
    mask_token: Counting = "counted",
) -> Tensor:
    """Return softmax(logits)[tokens], [B, n], for tokens [B, n].

    `of` raw takes the model's logits; filtered, what processors, top-k, top-p and min-p leave of
    them, without the temperature; processed, the distribution that `sample` draws from.
    `mask_token` ignored: over all tokens but the mask token.
    """
    clamped = tokens.clamp_min(0)
    return _score(scores.probability, rules, failed, logits, of, mask_token, clamped)


def entropy(
    rules: Rules,
    failed: dict[int, NldcRuntimeError],
    logits: Logits,
    of: Scored = "raw",
    mask_token: Counting = "counted",
) -> Tensor:
    """Return the entropy of softmax(logits) in nats, [B, n]; see `probability`."""
    return _score(scores.entropy, rules, failed, logits, of, mask_token)


def margin(
    rules: Rules,
    failed: dict[int, NldcRuntimeError],
    logits: Logits,
    of: Scored = "raw",
    mask_token: Counting = "counted",
) -> Tensor:
    """Return the probability of the likeliest token less that of the second, [B, n].

    See `probability`.
    """
    return _score(scores.margin, rules, failed, logits, of, mask_token)


def raw_rows(rules: Rules, logits: Logits, of: Scored) -> Tensor | bool:
    """Return which rows, bool [B, n], have a score of the model's own logits; a bool: all or none.

    Of the rows of a sequence that is chosen of greedily nothing else is made, but of those that are
    due.
    """
    if of == "raw":
        return True
    groups = [
        group
        for group in rules.groups
        if not group.sampling.temperature and not group.sampling.processors
    ]
    if not groups:
        return False
    if len(groups) == len(rules.groups):
        return True if logits.due is None else ~logits.due
    values = logits.values
    rows = torch.zeros(values.shape[:2], dtype=torch.bool, device=values.device)
    for group in groups:
        assert group.index is not None
        rows.index_fill_(0, group.index, True)
    return rows if logits.due is None else rows & ~logits.due


def _score(
    measure: Callable[..., Tensor],
    rules: Rules,
    failed: dict[int, NldcRuntimeError],
    logits: Logits,
    of: Scored,
    mask_token: Counting,
    *more: Tensor,
) -> Tensor:
    """Return what is measured of each row, [B, n], in the dtype of a raw score.

    Filters compute in float64; a row must be compared alike whoever is beside it.
    """
    dtype = torch.promote_types(logits.values.dtype, torch.float32)

    def values_of(own: Logits) -> Tensor:
        values = own.values.to(dtype)
        return without_mask(rules, values) if mask_token == "ignored" else values

    if of == "raw":
        return measure(values_of(logits), *more)

    def scored(group: Group, own: Logits) -> Tensor:
        values = _processed(rules, failed, group, own, values_of(own))
        if group.sampling.temperature:
            drawn = filtered(values, group.sampling)
            is_out = drawn.isneginf()
            values = drawn if of == "processed" else values.masked_fill(is_out, -math.inf)
        return measure(values, *(_of(group, each) for each in more)).to(dtype)

    return _by_group(rules, logits, scored)


def _by_group(rules: Rules, logits: Logits, found: Callable[[Group, Logits], Tensor]) -> Tensor:
    """Return what is found of each group's rows, [B, n]."""
    if len(rules.groups) == 1:
        return found(rules.groups[0], logits)
    whole: Tensor | None = None
    for group in rules.groups:
        assert group.index is not None
        part = found(group, logits.of(group.index))
        if whole is None:
            whole = torch.empty_like(logits.positions, dtype=part.dtype)
        whole.index_copy_(0, group.index, part)
    assert whole is not None
    return whole


def _of(group: Group, values: Tensor) -> Tensor:
    """Return the lines [m, ...] of a group of values [B, ...]."""
    return values if group.index is None else values.index_select(0, group.index)


def _processed(
    rules: Rules,
    failed: dict[int, NldcRuntimeError],
    group: Group,
    own: Logits,
    values: Tensor,
) -> Tensor:
    """Return what a group's processors make of values [m, n, V], and then the thinking budget."""
    if group.sampling.processors:
        positions = torch.minimum(own.positions, _of(group, rules.last))
        values = _asked(group, failed, values, positions, own.sight)
    if own.due is not None:
        values = end_thought(values, own.due, _of(group, rules.thought_ends))
    return values


def _asked(
    group: Group,
    failed: dict[int, NldcRuntimeError],
    values: Tensor,
    positions: Tensor,
    sight: Sight | None,
) -> Tensor:
    """Ask a group's processors; the rows of sequences for which they fail become NaN."""
    processors, members = group.sampling.processors, group.members
    if failed.keys().isdisjoint(members):
        try:
            return ask(processors, values, positions, sight)
        except NldcRuntimeError as problem:
            if len(members) == 1:
                failed[members[0]] = problem
    lines = []
    for place, number in enumerate(members):
        own = slice(place, place + 1)
        line = values[own]
        if number not in failed:
            try:
                line = ask(processors, line, positions[own], sight and sight.of(own))
            except NldcRuntimeError as problem:
                failed[number] = problem
        lines.append(torch.full_like(line, math.nan) if number in failed else line)
    return torch.cat(lines)


def without_mask(rules: Rules, values: Tensor) -> Tensor:
    """Return logits [..., V] that never choose the mask token."""
    return scores.without(values, rules.mask_token_id)
