"""Attention as its definition says it: what every other backend is tested against."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, visible

Attention: TypeAlias = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attention of one forward: of a layer's number, queries [..., heads, rows, head_dim], rotated and
scaled, and keys and values [..., kv_heads, rows, head_dim] it makes [..., heads, rows, head_dim].
"""


@dataclass(frozen=True, eq=False)
class Sight:
    """What rows see, as it is added to their scores: `bias` [..., 1, rows, keys] of 0 and -inf.

    `blind` [..., 1, rows, 1] tells which rows see nothing at all; None if each sees something.
    """

    bias: Tensor
    blind: Tensor | None

    @staticmethod
    def of(sees: Tensor, dtype: torch.dtype) -> Sight:
        """Return that of bool `sees` [..., rows, keys], for scores of the dtype."""
        blind = ~sees.any(-1, keepdim=True)
        hidden = ~(sees | blind)
        bias = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
        bias = bias.masked_fill_(hidden, -math.inf).unsqueeze(-3)
        return Sight(bias, blind.unsqueeze(-3) if blind.any() else None)


def causal(rows: int, prefix: int = 0) -> Tensor:
    """Return what rows behind a prefix see, bool [rows, prefix + rows]: all up to themselves."""
    return torch.ones(rows, prefix + rows, dtype=torch.bool).tril(prefix)


def attend(query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Tensor:
    """Return softmax(query key) value over the keys that are seen: [..., heads, rows, head_dim].

    `query` [..., heads, rows, head_dim] is scaled; `key` and `value` are
    [..., kv_heads, keys, head_dim], and heads / kv_heads heads in turn share one of them. A row
    that sees nothing gets zeros.
    """
    kv_heads, rows = key.shape[-3], query.shape[-2]

    def by_key_head(x: Tensor) -> Tensor:
        return torch.unflatten(x, -3, (kv_heads, -1)).flatten(-3, -2)

    def by_head(x: Tensor) -> Tensor:
        return torch.unflatten(x, -2, (-1, rows)).flatten(-4, -3)

    scores = by_head(by_key_head(query) @ key.transpose(-1, -2))
    weights = (scores + sight.bias).softmax(-1)
    found = by_head(by_key_head(weights) @ value)
    return found if sight.blind is None else found.masked_fill(sight.blind, 0.0)


def over(sees: Tensor, dtype: torch.dtype) -> Attention:
    """Return the attention of rows over one another by bool `sees` [..., rows, rows]."""
    sight = Sight.of(sees, dtype)
    return lambda _layer, query, key, value: attend(query, key, value, sight)


def attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    lengths: Tensor,
    factor: Tensor,
    layout: Layout,
    pattern: Pattern,
    prompts: Sequence[int] | None = None,
) -> Tensor:
    """Return float64 [B * R, heads * head_dim] for query [B * R, heads, head_dim].

    `keys` and `values` [slots, kv_heads, capacity, head_dim] hold the R rows of each sequence
    behind its length; `slots` and `lengths` are int64 [B], `factor` [B * R] scales the queries. A
    row that sees nothing gets zeros. `prompts` are the lengths of the sequences' prompts.
    """
    rows = layout.size
    scaled = torch.split(query.double() * factor.double().view(-1, 1, 1), rows)
    found = []
    told = prompts or (0,) * len(lengths)
    for own, slot, length, prompt in zip(
        scaled, slots.tolist(), lengths.tolist(), told, strict=True
    ):
        sees = torch.cat(visible(layout, pattern, length, prompt=prompt), 1)
        key, value = (held[slot, :, : length + rows].double() for held in (keys, values))
        mixed = attend(own.transpose(0, 1), key, value, Sight.of(sees, torch.float64))
        found.append(mixed.transpose(0, 1).flatten(1))
    return torch.cat(found)
