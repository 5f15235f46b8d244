"""Attention as its definition says it, slowly: what every other backend is tested against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, visible


def attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    lengths: Tensor,
    factor: Tensor,
    layout: Layout,
    pattern: Pattern,
) -> Tensor:
    """Return float64 [B * R, heads * head_dim] for query [B * R, heads, head_dim].

    `keys` and `values` [slots, kv_heads, capacity, head_dim] hold the R rows of each sequence
    behind its length; `slots` and `lengths` are int64 [B], `factor` [B * R] scales the scores. A
    row that sees nothing gets zeros.
    """
    rows, heads = layout.size, query.shape[1]
    shared = heads // keys.shape[1]
    output = torch.zeros(query.shape, dtype=torch.float64)
    for sequence, (slot, length) in enumerate(zip(slots.tolist(), lengths.tolist(), strict=True)):
        sees = torch.cat(visible(layout, pattern, length), 1)
        for row in range(rows):
            line = sequence * rows + row
            for head in range(heads):
                key = keys[slot, head // shared, : length + rows].double()
                value = values[slot, head // shared, : length + rows].double()
                score = key @ query[line, head].double() * factor[line].double()
                score = score.masked_fill(~sees[row], -math.inf)
                weight = score.softmax(0).nan_to_num(nan=0.0)
                output[line, head] = weight @ value
    return output.flatten(1)
