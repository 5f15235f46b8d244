"""A choice by its numbers on the device, in torch: the same for all sequences, however sampled."""

from __future__ import annotations

import torch
from torch import Tensor

from nldc.runtime.model.backend import Choice, Drawing
from nldc.runtime.model.scores import without
from nldc.runtime.step.sampling import (
    LOWEST_TEMPERATURE,
    NO_NUMBER,
    NOTHING_ALLOWED,
    gumbel,
    row_keys,
    weights,
)


def drawn(values: Tensor, choice: Choice) -> Tensor:
    """Return what a choice takes of logits [B, n, V], int64 [B, n], asking the host for nothing."""
    if choice.barred is not None:
        values = without(values, choice.barred)
    values = values.double()
    if choice.drawing is not None:
        values = _noised(values, choice, choice.drawing)
    best = values.argmax(-1)
    score = values.gather(-1, best.unsqueeze(-1)).squeeze(-1)
    best = best.masked_fill(score.isnan() | score.isposinf(), NO_NUMBER)
    return best.masked_fill(score.isneginf(), NOTHING_ALLOWED)


def _noised(values: Tensor, choice: Choice, drawing: Drawing) -> Tensor:
    greedy = (drawing.temperature < LOWEST_TEMPERATURE).view(-1, 1, 1)
    by = torch.where(greedy, 1.0, drawing.temperature.view(-1, 1, 1))
    heated = _kept(values, by, drawing) if choice.filters else values / by
    keys = row_keys(choice.seeds, choice.keys.unsqueeze(1), choice.positions)
    return torch.where(greedy, values, heated + gumbel(keys, values.shape[-1]))


def _kept(values: Tensor, by: Tensor, drawing: Drawing) -> Tensor:
    size = values.shape[-1]
    top_p, reach = drawing.top_p.view(-1, 1, 1), drawing.reach.view(-1, 1, 1)
    last = drawing.top_k.clamp_max(size).view(-1, 1, 1).expand(-1, values.shape[1], 1) - 1
    ordered = values.sort(-1, descending=True).values
    values = values.masked_fill(values < ordered.gather(-1, last), -torch.inf)
    ordered = values.sort(-1, descending=True).values
    sums = weights(ordered / by).cumsum(-1).double()
    needed = (sums < sums[..., -1:] * top_p).sum(-1, keepdim=True).clamp_max(size - 1)
    goes = (values < ordered.gather(-1, needed)) & (top_p < 1)
    values = values.masked_fill(goes, -torch.inf) / by
    return values.masked_fill(values < values.amax(-1, keepdim=True) + reach, -torch.inf)
