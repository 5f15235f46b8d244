"""What a row's logits say of its tokens, plainly, and how logits are mixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

ScoreName = Literal["probability", "entropy", "margin"]


@dataclass(frozen=True, eq=False)
class Scores:
    """The raw scores that rows are asked for beside their tokens.

    Probabilities are of `tokens`, int64 [B, n], where one below 0 counts as 0; None: of the chosen
    ones. The token `uncounted` is left out of all scores.
    """

    names: tuple[ScoreName, ...]
    tokens: Tensor | None = None
    uncounted: int | None = None


def scored(logits: Tensor, chosen: Tensor | None, scores: Scores) -> tuple[Tensor, ...]:
    """Return each score, [B, n], of logits [B, n, V] of which `chosen`, int64 [B, n], were taken.

    In float32 at least. None: none was, and probabilities are of tokens that are given.
    """
    values = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if scores.uncounted is not None:
        values = without(values, scores.uncounted)
    tokens = chosen if scores.tokens is None else scores.tokens
    found = {
        "probability": lambda: probability(values, cast(Tensor, tokens).clamp_min(0)),
        "entropy": lambda: entropy(values),
        "margin": lambda: margin(values),
    }
    return tuple(found[name]() for name in scores.names)


def log_probability(values: Tensor, tokens: Tensor) -> Tensor:
    """Return log softmax(values)[tokens], [...], of values [..., V] and tokens int64 [...]."""
    chosen = values.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return chosen - values.logsumexp(-1)


def probability(values: Tensor, tokens: Tensor) -> Tensor:
    """Return softmax(values)[tokens], [...], of values [..., V] and tokens int64 [...]."""
    return log_probability(values, tokens).exp()


def likeliest(values: Tensor) -> Tensor:
    """Return the probability of the likeliest token, [...], of values [..., V], in float32."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return probability(values, values.argmax(-1))


def candidates(values: Tensor, count: int) -> Tensor:
    """Return the `count` likeliest tokens of each row of values [..., V]: int64 [..., count].

    Of equals the lower id comes first; where there are fewer, the last of all stands again. Nothing
    is sorted but the few: which of those that equal the last one are among them, `topk` leaves
    open, so these are found by their ids. What is no number is likelier than any.
    """
    size = values.shape[-1]
    taken = min(count, size)
    top = values.topk(taken, -1)
    least = top.values[..., -1:]

    def is_least(each: Tensor) -> Tensor:
        return (each == least) | (each.isnan() & least.isnan())

    places = top.indices.sort(-1)
    held = top.values.gather(-1, places.indices)
    order = held.sort(dim=-1, descending=True, stable=True).indices
    above = places.values.gather(-1, order)
    backwards = torch.arange(size, 0, -1, dtype=torch.int32, device=values.device)
    low = size - torch.where(is_least(values), backwards, 0).topk(taken, -1).values.long()
    number = torch.arange(taken, device=values.device)
    behind = number - (~is_least(top.values)).sum(-1, keepdim=True)
    found = torch.where(behind < 0, above, low.gather(-1, behind.clamp_min(0)))
    return torch.cat([found, found[..., -1:].expand(*found.shape[:-1], count - taken)], -1)


def entropy(values: Tensor) -> Tensor:
    """Return the entropy of softmax(values) in nats, [...]."""
    log_p = values.log_softmax(-1)
    return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(-1)


def margin(values: Tensor) -> Tensor:
    """Return the probability of the likeliest token less that of the second, [...]."""
    best = values.softmax(-1).topk(2, -1).values
    return best[..., 0] - best[..., 1]


def mixed(parts: Sequence[Tensor], weights: Sequence[float | Tensor]) -> Tensor:
    """Return the sum of logits [B, n, V], each times its weight, in their dtype.

    A weight may be float32 [B, 1], a number a sequence; one of 0 leaves the part out.
    """
    total = _times(parts[0], weights[0])
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total + _times(part, weight)
    return total


def _times(values: Tensor, weight: float | Tensor) -> Tensor:
    """Return logits [B, n, V] times a weight, computed as a number that all share is."""
    if not isinstance(weight, Tensor):
        return values * weight if weight else torch.zeros_like(values)
    by = weight.unsqueeze(-1)
    return (values.to(by.dtype) * by).masked_fill(by == 0, 0.0).to(values.dtype)


def without(values: Tensor, token: int) -> Tensor:
    """Return logits [..., V] in which a token is -inf."""
    ids = torch.arange(values.shape[-1], device=values.device)
    return values.masked_fill(ids == token, -math.inf)
