"""Prompts that are given as embeddings: their rows have ids of their own, behind the vocabulary.

So a forward knows them in whatever layout, of a step as well. They equal no token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nldc.runtime.model.backbone import Backbone
from nldc.runtime.step.history import History


def inputs_of(backbone: Backbone, tokens: Tensor, given: Sequence[Tensor | None]) -> Tensor:
    """Return the embeddings [B * R, hidden] of ids [B, R]; `given` are those of the prompts."""
    tokens = tokens.clamp_min(0)  # in place of a draft that could not be chosen: any will do
    if all(own is None for own in given):
        return backbone.embed(tokens.reshape(-1))
    first = backbone.config.vocab_size
    is_given = tokens >= first
    states = backbone.embed(tokens.masked_fill(is_given, 0).reshape(-1)).view(*tokens.shape, -1)
    lines = [
        own
        if rows is None
        else torch.where(mine.unsqueeze(1), rows[(line - first).clamp(0, len(rows) - 1)], own)
        for own, mine, line, rows in zip(states, is_given, tokens, given, strict=True)
    ]
    return torch.cat(lines)


def known_as(tokens: Tensor, vocabulary: int, history: History) -> Tensor:
    """Return ids [B, n] with those of a prompt's own rows as the text so far has them."""
    return torch.where(tokens >= vocabulary, history.at(tokens - vocabulary), tokens)
