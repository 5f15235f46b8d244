"""The strategy language's small ops, as pure functions of tensors; none waits for the device.

B is the batch, n rows. Booleans and counts stay on the device, and every loop is bounded by shapes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from nldc.runtime.rows.table import Table
from nldc.runtime.step import noted_ops
from nldc.runtime.step.contract import StepBatch
from nldc.runtime.step.counts import held, leading, least, length_of, number
from nldc.runtime.step.noted import Noted, Notes, as_tensor, notes_of, real
from nldc.runtime.step.trees import longest_branch, recalled
from nldc.runtime.step.values import Logits, Rows, gather_rows, take_rows

__all__ = [
    "Accepted",
    "accept_longest_branch",
    "accept_longest_prefix",
    "advance",
    "begun",
    "candidates",
    "choose_rows",
    "differ",
    "fill",
    "fill_after_eos",
    "fill_left",
    "gather_rows",
    "grouped_rows",
    "has_masks",
    "held",
    "join",
    "leading",
    "least",
    "left",
    "length_of",
    "lookup",
    "mask",
    "no_tokens",
    "number",
    "recall",
    "rows",
    "select",
    "take_rows",
    "unfinished",
]


def rows(batch: StepBatch, *segments: Tensor | int) -> Rows:
    """Return rows made of segments in order: tokens [B, m], or a number of masked rows."""
    if batch.notes is not None:
        return Rows(*noted_ops.rows(batch.notes, batch.mask_token_id, segments))
    tokens, masked = [], []
    for segment in segments:
        if not isinstance(segment, int):
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
    if isinstance(segment, Tensor | Noted):
        share = segment.shape[1] // groups
        return segment[:, group * share : (group + 1) * share]
    return segment if isinstance(segment, int) else segment[group]


def no_tokens(batch: StepBatch) -> Tensor:
    """Return tokens [B, 0], for a prefill that emits nothing."""
    return torch.empty((batch.size, 0), dtype=torch.int64, device=batch.device)


def join(*parts: Tensor) -> Tensor:
    """Return tokens [B, n] of the parts one after another."""
    if notes := notes_of(*parts):
        return noted_ops.join(notes, parts)
    return torch.cat(parts, 1)


@dataclass(frozen=True)
class Accepted:
    """What agreed. `matches` [B] targets equalled their draft; `rows` [B] is one more.

    The first `rows` of `tokens` [B, m] are the accepted targets and the bonus; the first `rows` of
    `drafted` [B, n] the accepted drafts, the one before the first comparison included; `bonus`
    [B, 1] is the last accepted target. Of several branches it is the one numbered `branch` [B].
    """

    tokens: Tensor
    drafted: Tensor
    matches: Tensor
    rows: Tensor
    bonus: Tensor
    branch: Tensor | None = None


def accept_longest_prefix(
    draft: Tensor, target: Tensor, offset: int = 1, *, most: Tensor | None = None
) -> Accepted:
    """Hold target i against draft i + offset, up to the first difference.

    `draft` [B, n] and `target` [B, m] are token ids. A sequence has `most` matches at the most,
    int64 [B] (None: as many as there are): what lies behind its own part is not compared.
    """
    compared = max(0, min(target.shape[1] - 1, draft.shape[1] - offset))
    if notes := notes_of(draft, target):
        matches, bonus = noted_ops.accepted(notes, draft, target, offset, compared)
    else:
        equal = target[:, :compared] == draft[:, offset : offset + compared]
        matches = equal.to(torch.int64).cumprod(1).sum(1)
        bonus = target.gather(1, matches.unsqueeze(1))
    if most is not None:
        matches = least(matches, most)
        bonus = gather_rows(target, matches.unsqueeze(1))
    return Accepted(
        tokens=target[:, : compared + 1],
        drafted=draft[:, : compared + offset],
        matches=matches,
        rows=matches + 1,
        bonus=bonus,
    )


def accept_longest_branch(draft: Tensor, target: Tensor, branches: Table) -> Accepted:
    """Accept as `accept_longest_prefix` does, in the branch with most matches, of equals the first.

    `draft` and `target` [B, R] are token ids of all rows; each line of `branches` has the rows of
    one.
    """
    if notes := notes_of(draft, target):
        found = noted_ops.longest(notes, draft, target, branches)
    else:
        found = longest_branch(draft, target, branches)
    return Accepted(
        tokens=found.tokens,
        drafted=found.drafted,
        matches=found.matches,
        rows=found.matches + 1,
        bonus=found.bonus,
        branch=found.branch,
    )


def candidates(batch: StepBatch, logits: Logits, count: int) -> Tensor:
    """Return the `count` likeliest tokens of each row, int64 [B, n * count].

    Of equals the lower id comes first; where there are fewer, the last of all stands again.
    """
    return batch.candidates(logits, count)


def recall(pool: Tensor, entry: int, after: Tensor, count: int) -> Tensor:
    """Return tokens [B, count * (entry - 1)] of the entries of a pool; see `recalled`."""
    if notes := notes_of(pool, after):
        return noted_ops.recalled(notes, pool, entry, after, count)
    return recalled(pool, entry, after, count)


def choose_rows(table: Table, count: Tensor, low: int) -> Tensor:
    """Return row numbers [B, m] from a table [counts, m] whose first line is for `count` = low."""
    if notes := notes_of(count):
        return noted_ops.chosen(notes, table, count, low)
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
    among, score, notes = _alike(among, score)
    chosen = []
    if at_least is not None:
        chosen.append(score >= at_least)
    if at_most is not None:
        chosen.append(score <= at_most)
    if any(rule is not None for rule in (best, always_best, within, where)):
        rank = _ranks(among, score, less_is_surer=less_is_surer)
        if within is not None:
            chosen.append(_sums_before(among, score, rank) <= within)
        if best is not None:
            chosen.append(rank < best)
        if always_best is not None:
            chosen.append(rank < always_best)
        if where is not None:
            if notes is None:
                row = torch.arange(score.shape[1], device=score.device)
            else:
                row = noted_ops.numbered(notes, score.shape[1])
            chosen.append(where(row, rank, score))
    return reduce(operator.or_, chosen) & among if chosen else torch.zeros_like(among)


def _alike(among: Tensor, score: Tensor) -> tuple[Tensor, Tensor, Notes | None]:
    """Return both as values that were noted, with where they are, or both as tensors."""
    notes = notes_of(among, score)
    if notes is not None:
        rows, scores = notes.of(among), notes.of(score)
        if rows is not None and scores is not None:
            return as_tensor(rows), as_tensor(scores), notes
    return real(among), real(score), None


def _ranks(among: Tensor, score: Tensor, *, less_is_surer: bool) -> Tensor:
    """Return how many rows are surer than each, int64 [B, n]."""
    if notes := notes_of(score):
        return noted_ops.ranks(notes, among, score, less_is_surer=less_is_surer)
    held = score.masked_fill(~among, math.inf if less_is_surer else -math.inf)
    order = held.sort(dim=1, descending=not less_is_surer, stable=True).indices
    return order.argsort(1)


def _sums_before(among: Tensor, score: Tensor, rank: Tensor) -> Tensor:
    """Return what the scores of the surer rows of `among` add up to, [B, n]."""
    if notes := notes_of(score):
        return noted_ops.sums_before(notes, among, score, rank)
    order = rank.argsort(1)
    in_order = score.masked_fill(~among, 0.0).gather(1, order)
    return (in_order.cumsum(1) - in_order).gather(1, rank)


def fill(held: Rows, where: Tensor, tokens: Tensor) -> Rows:
    """Return the rows with `tokens` [B, n] written where bool [B, n]; those are not masked now."""
    if notes := notes_of(held.tokens, where, tokens):
        return Rows(*noted_ops.fill(notes, (held.tokens, held.masked), where, tokens))
    return Rows(torch.where(where, tokens, held.tokens), held.masked & ~where)


def mask(batch: StepBatch, held: Rows, where: Tensor) -> Rows:
    """Return the rows with those of bool [B, n] masked again: they hold the mask token."""
    if batch.notes is not None:
        pair = held.tokens, held.masked
        return Rows(*noted_ops.mask(batch.notes, pair, where, batch.mask_token_id))
    return Rows(held.tokens.masked_fill(where, batch.mask_token_id), held.masked | where)


def unfinished(batch: StepBatch, held: Rows, *, first: bool = False) -> Tensor:
    """Return which sequences, bool [B], still need rows: a loop over `held` runs on for them.

    Those with a masked row, unless there is an EOS with no masked row before it; with `first`, only
    the first of the ids that end a sequence counts.
    """
    if batch.notes is not None:
        pair = held.tokens, held.masked
        return noted_ops.unfinished(batch.notes, pair, batch.end_ids, first=first)
    open_before = held.masked.cumsum(1) > 0
    ends = batch.ends(held.tokens, first=first) & ~open_before
    return held.masked.any(1) & ~ends.any(1)


def has_masks(held: Rows) -> Tensor:
    """Return which sequences, bool [B], have a masked row, whatever the others hold."""
    if isinstance(held.masked, Noted):
        return noted_ops.any_of(held.masked)
    return held.masked.any(1)


def differ(held: Rows, after: Rows) -> Tensor:
    """Return in which sequences, bool [B], a row has another token, or is masked in one only."""
    changed = (held.tokens != after.tokens) | (held.masked != after.masked)
    if isinstance(changed, Noted):
        return noted_ops.any_of(changed)
    return changed.any(1)


def fill_after_eos(batch: StepBatch, held: Rows, *, first: bool = False) -> Rows:
    """Return the rows with every masked row after the first EOS filled with that EOS.

    With `first`, only the first of the ids that end a sequence counts.
    """
    if batch.notes is not None:
        pair = held.tokens, held.masked
        return Rows(*noted_ops.fill_after_eos(batch.notes, pair, batch.end_ids, first=first))
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
    if notes := notes_of(active, held.tokens, after.tokens):
        pairs = (held.tokens, held.masked), (after.tokens, after.masked)
        noted_ops.advance(notes, active, *pairs)
        return
    on = active.unsqueeze(1)
    torch.where(on, after.tokens, held.tokens, out=held.tokens)
    torch.where(on, after.masked, held.masked, out=held.masked)


def left(among: Tensor) -> Tensor:
    """Return how many rows each sequence has left, int64 [B, 1], of bool [B, n]."""
    if isinstance(among, Noted):
        return noted_ops.total(among)
    return among.sum(1, keepdim=True)


def lookup(batch: StepBatch, length: int, ngram: int) -> Tensor:
    """Return tokens [B, length]: what followed the last tokens the last time they occurred.

    The text so far is the prompt and what has been emitted. Fewer than `ngram` tokens are looked
    for if that many never occurred before; what is missing at the end is the last token again.
    """
    return batch.history().continued(length, ngram)
