"""The strategy language's small ops, as pure functions of tensors; none waits for the device.

B is the batch, n rows. Booleans and counts stay on the device, and every loop is bounded by shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.rows.table import Table
from nldc.runtime.step.contract import StepBatch
from nldc.runtime.step.values import Logits, Rows, gather_rows, take_rows

__all__ = [
    "Accepted",
    "accept_longest_prefix",
    "advance",
    "begun",
    "choose_rows",
    "fill",
    "fill_after_eos",
    "fill_left",
    "gather_rows",
    "grouped_rows",
    "has_masks",
    "join",
    "left",
    "lookup",
    "mix",
    "no_tokens",
    "rows",
    "select",
    "take_rows",
    "unfinished",
]


def rows(batch: StepBatch, *segments: Tensor | int) -> Rows:
    """Return rows made of segments in order: tokens [B, m], or a number of masked rows."""
    tokens, masked = [], []
    for segment in segments:
        if isinstance(segment, Tensor):
            tokens.append(segment)
            masked.append(torch.zeros_like(segment, dtype=torch.bool))
        else:
            shape = (batch.size, segment)
            tokens.append(torch.full(shape, batch.mask_token_id, device=batch.device))
            masked.append(torch.ones(shape, dtype=torch.bool, device=batch.device))
    return Rows(torch.cat(tokens, 1), torch.cat(masked, 1))


def grouped_rows(
    batch: StepBatch,
    groups: int,
    *segments: Tensor | int | tuple[int, ...],
    by_segment: bool = False,
) -> Rows:
    """Return the rows of `groups` groups, one after another, each with every segment in order.

    `by_segment` puts every group's first segment first, then every group's second, and so on.

    Tokens [B, groups * m] are dealt out m a group; a number of masked rows may differ by group.
    """
    dealt = [[_share(segment, groups, group) for segment in segments] for group in range(groups)]
    lists = zip(*dealt, strict=True) if by_segment else dealt
    return rows(batch, *(part for parts in lists for part in parts))


def _share(segment: Tensor | int | tuple[int, ...], groups: int, group: int) -> Tensor | int:
    if isinstance(segment, Tensor):
        share = segment.shape[1] // groups
        return segment[:, group * share : (group + 1) * share]
    return segment if isinstance(segment, int) else segment[group]


def no_tokens(batch: StepBatch) -> Tensor:
    """Return tokens [B, 0], for a prefill that emits nothing."""
    return torch.empty((batch.size, 0), dtype=torch.int64, device=batch.device)


def join(*parts: Tensor) -> Tensor:
    """Return tokens [B, n] of the parts one after another."""
    return torch.cat(parts, 1)


@dataclass(frozen=True)
class Accepted:
    """What agreed. `matches` [B] targets equalled their draft; `rows` [B] is one more.

    The first `rows` of `tokens` [B, m] are the accepted targets and the bonus; the first `rows` of
    `drafted` [B, n] the accepted drafts, the one before the first comparison included; `bonus`
    [B, 1] is the last accepted target.
    """

    tokens: Tensor
    drafted: Tensor
    matches: Tensor
    rows: Tensor
    bonus: Tensor


def accept_longest_prefix(draft: Tensor, target: Tensor, offset: int = 1) -> Accepted:
    """Hold target i against draft i + offset, up to the first difference.

    `draft` [B, n] and `target` [B, m] are token ids.
    """
    compared = max(0, min(target.shape[1] - 1, draft.shape[1] - offset))
    equal = target[:, :compared] == draft[:, offset : offset + compared]
    matches = equal.to(torch.int64).cumprod(1).sum(1)
    return Accepted(
        tokens=target[:, : compared + 1],
        drafted=draft[:, : compared + offset],
        matches=matches,
        rows=matches + 1,
        bonus=target.gather(1, matches.unsqueeze(1)),
    )


def choose_rows(table: Table, count: Tensor, low: int) -> Tensor:
    """Return row numbers [B, m] from a table [counts, m] whose first line is for `count` = low."""
    return table.on(count.device)[count - low]


def select(
    among: Tensor,
    score: Tensor,
    *,
    at_least: float | Tensor | None = None,
    at_most: float | Tensor | None = None,
    best: float | Tensor | None = None,
    within: float | Tensor | None = None,
    where: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    always_best: float | Tensor | None = None,
    less_is_surer: bool = False,
) -> Tensor:
    """Return the rows of `among`, bool [B, n], that any of the rules picks by `score` [B, n].

    `at_least` and `at_most` bound the score itself; `best` and `always_best` pick that many of the
    surest rows; `within` picks the surest rows as long as the scores before a row add up to no
    more (the entropy bound: a sum less its largest); `where` is asked of each row's number, its
    rank (0 is the surest) and its score. A rule may be [B, 1], a number a sequence. Of equal scores
    the lower row is surer.
    """
    worst = math.inf if less_is_surer else -math.inf
    held = score.masked_fill(~among, worst)
    chosen = torch.zeros_like(among)
    if at_least is not None:
        chosen |= score >= at_least
    if at_most is not None:
        chosen |= score <= at_most
    if any(rule is not None for rule in (best, always_best, within, where)):
        order = held.sort(dim=1, descending=not less_is_surer, stable=True).indices
        rank = order.argsort(1)
        if within is not None:
            sorted_scores = score.masked_fill(~among, 0.0).gather(1, order)
            before = sorted_scores.cumsum(1) - sorted_scores
            chosen |= (before <= within).gather(1, rank)
        if best is not None:
            chosen |= rank < best
        if always_best is not None:
            chosen |= rank < always_best
        if where is not None:
            chosen |= where(torch.arange(score.shape[1], device=score.device), rank, score)
    return chosen & among


def fill(held: Rows, where: Tensor, tokens: Tensor) -> Rows:
    """Return the rows with `tokens` [B, n] written where bool [B, n]; those are not masked now."""
    return Rows(torch.where(where, tokens, held.tokens), held.masked & ~where)


def unfinished(batch: StepBatch, held: Rows, *, first: bool = False) -> Tensor:
    """Return which sequences, bool [B], still need rows: a loop over `held` runs on for them.

    Those with a masked row, unless there is an EOS with no masked row before it; with `first`, only
    the first of the ids that end a sequence counts.
    """
    open_before = held.masked.cumsum(1) > 0
    ends = batch.ends(held.tokens, first=first) & ~open_before
    return held.masked.any(1) & ~ends.any(1)


def has_masks(held: Rows) -> Tensor:
    """Return which sequences, bool [B], have a masked row, whatever the others hold."""
    return held.masked.any(1)


def fill_after_eos(batch: StepBatch, held: Rows, *, first: bool = False) -> Rows:
    """Return the rows with every masked row after the first EOS filled with that EOS.

    With `first`, only the first of the ids that end a sequence counts.
    """
    ends = batch.ends(held.tokens, first=first) & ~held.masked
    place = ends.int().argmax(1, keepdim=True)
    after = (ends.cumsum(1) > 0) & held.masked
    return fill(held, after, held.tokens.gather(1, place).expand_as(held.tokens))


def fill_left(active: Tensor, held: Rows, tokens: Tensor) -> Rows:
    """Return the rows with what is left masked filled with `tokens` [B, n], in active sequences."""
    return fill(held, held.masked & active.unsqueeze(1), tokens)


def begun(held: Rows) -> Rows:
    """Return the rows in memory of their own, which the rounds of a loop write: see `advance`."""
    return Rows(held.tokens.clone(), held.masked.clone())


def advance(active: Tensor, held: Rows, after: Rows) -> None:
    """Let the active sequences, bool [B], hold `after`; the others keep what they hold.

    It is written where `held` lies, so that every round is the same work on the same memory.
    """
    on = active.unsqueeze(1)
    torch.where(on, after.tokens, held.tokens, out=held.tokens)
    torch.where(on, after.masked, held.masked, out=held.masked)


def left(among: Tensor) -> Tensor:
    """Return how many rows each sequence has left, int64 [B, 1], of bool [B, n]."""
    return among.sum(1, keepdim=True)


def mix(logits: Sequence[Logits], weights: Sequence[float]) -> Logits:
    """Return the sum of logits for the same positions, each times its weight.

    What is `due` where they disagree about that is what the first of them says.
    """
    total = logits[0].values * weights[0]
    for other, weight in zip(logits[1:], weights[1:], strict=True):
        total = total + other.values * weight
    return Logits(total, logits[0].positions, logits[0].due, logits[0].sight)


def lookup(batch: StepBatch, length: int, ngram: int) -> Tensor:
    """Return tokens [B, length]: what followed the last tokens the last time they occurred.

    The text so far is the prompt and what has been emitted. Fewer than `ngram` tokens are looked
    for if that many never occurred before; what is missing at the end is the last token again.
    """
    return batch.history().continued(length, ngram)
