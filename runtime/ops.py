"""The strategy language's small ops, as pure functions of tensors; none waits for the device.

B is the batch, n rows. Booleans and counts stay on the device, and every loop is bounded by shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.batch import Batch, Logits, Rows, gather_rows, take_rows

__all__ = [
    "Accepted",
    "accept_longest_prefix",
    "choose_rows",
    "fill",
    "gather_rows",
    "is_full",
    "join",
    "mix",
    "rows",
    "select",
    "still_masked",
    "take_rows",
]


def rows(batch: Batch, *segments: Tensor | int) -> Rows:
    """Return rows made of segments in order: tokens [B, m], or a number of masked rows."""
    tokens, masked = [], []
    for segment in segments:
        given = isinstance(segment, Tensor)
        part = (
            segment
            if isinstance(segment, Tensor)
            else torch.full((batch.size, segment), batch.mask_token_id, device=batch.device)
        )
        tokens.append(part)
        masked.append(torch.full(part.shape, not given, device=batch.device))
    return Rows(torch.cat(tokens, 1), torch.cat(masked, 1))


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


def choose_rows(table: Tensor, count: Tensor, low: int) -> Tensor:
    """Return row numbers [B, m] from a table [counts, m] whose first line is for `count` = low."""
    return table[count - low]


def select(
    among: Tensor,
    score: Tensor,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    best: int | Tensor | None = None,
    within: float | None = None,
    always_best: int | None = None,
    less_is_surer: bool = False,
) -> Tensor:
    """Return the rows of `among`, bool [B, n], that any of the rules picks by `score` [B, n].

    `at_least` and `at_most` bound the score itself; `best` and `always_best` pick that many of the
    surest rows (`best` may be int64 [B], a number a sequence); `within` picks the surest rows as
    long as their scores add up to no more. Of equal scores the lower row is surer.
    """
    worst = math.inf if less_is_surer else -math.inf
    held = score.masked_fill(~among, worst)
    chosen = torch.zeros_like(among)
    if at_least is not None:
        chosen |= score >= at_least
    if at_most is not None:
        chosen |= score <= at_most
    if best is not None or always_best is not None or within is not None:
        order = held.sort(dim=1, descending=not less_is_surer, stable=True).indices
        rank = order.argsort(1)
        if within is not None:
            total = score.masked_fill(~among, 0.0).gather(1, order).cumsum(1)
            chosen |= (total <= within).gather(1, rank)
        if best is not None:
            chosen |= rank < (best.unsqueeze(1) if isinstance(best, Tensor) else best)
        if always_best is not None:
            chosen |= rank < always_best
    return chosen & among


def fill(held: Rows, where: Tensor, tokens: Tensor) -> Rows:
    """Return the rows with `tokens` [B, n] written where bool [B, n]; those are not masked now."""
    return Rows(torch.where(where, tokens, held.tokens), held.masked & ~where)


def still_masked(held: Rows) -> Tensor:
    """Return which sequences, bool [B], have a masked row left."""
    return held.masked.any(1)


def is_full(held: Rows, eos: Tensor) -> Tensor:
    """Return which sequences, bool [B], need no more rows: no masked row, or none before an EOS."""
    open_before = held.masked.cumsum(1) > 0
    ends = torch.isin(held.tokens, eos) & ~held.masked & ~open_before
    return ~held.masked.any(1) | ends.any(1)


def mix(first: Logits, second: Logits, weight: float) -> Logits:
    """Return `weight * first + (1 - weight) * second` of logits for the same positions."""
    return Logits(weight * first.values + (1 - weight) * second.values, first.positions)
