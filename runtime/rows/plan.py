"""A layout and a pattern made ready for one device."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nldc.runtime.rows.layout import Layout
from nldc.runtime.rows.pattern import Pattern, visible

QUERY_TILE = 256
"""Rows that are computed at a time: bounds the memory that a long prompt takes."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A layout and a pattern made ready for one device.

    `layout` is a copy with the same tensors: plans are kept for as long as the layout they were
    asked for lives, and would keep that one alive for ever. `facts` is int32 [R, 7], for kernels.
    `own` is what is added to scores of the rows' own keys, [R, R] of 0 and -inf; None if there are
    too many rows to keep it. `blind`: some row may see nothing at all, and then attends to nothing.
    """

    layout: Layout
    pattern: Pattern
    offset: Tensor
    ahead: Tensor
    reach: int
    facts: Tensor
    own: Tensor | None
    blind: bool

    @staticmethod
    def of(layout: Layout, pattern: Pattern, device: torch.device, dtype: torch.dtype) -> Plan:
        """Evaluate the pattern over the rows and move the facts to `device`."""
        own: Tensor | None = None
        blind = layout.size > QUERY_TILE
        if layout.size <= QUERY_TILE:
            _, sees = visible(layout, pattern, 0)
            blind = not bool(sees.any(1).all())
            own = bias_of(sees, device, dtype)
        return Plan(
            layout=replace(layout),
            pattern=pattern,
            offset=layout.offset.to(device),
            ahead=layout.predicts_next.to(device, torch.int64),
            reach=int(layout.offset.max()) + 1,
            facts=torch.stack(
                (
                    layout.kind,
                    layout.group,
                    layout.index,
                    layout.row,
                    layout.segment,
                    layout.masked.long(),
                    layout.offset,
                ),
                1,
            ).to(device, torch.int32),
            own=own,
            blind=blind,
        )


def bias_of(sees: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return what is added to scores: 0 where bool `sees` is true, else -inf."""
    bias = torch.zeros(sees.shape, dtype=dtype, device=device)
    return bias.masked_fill_(~sees.to(device), -math.inf)
