"""Tables on the device that have more room than is used, so that they seldom move."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST_SLOTS = 8
"""How many lines tables begin with."""


def slots_for(slots: int, have: int) -> int:
    """Return how many lines tables of `have` should have, of which `slots` are needed.

    They double, so that all moves together copy less than twice what there is at the end.
    """
    return have if slots <= have else max(slots, 2 * have, FIRST_SLOTS)


def grown(table: Tensor, slots: int, columns: int | None = None, fill: int = 0) -> Tensor:
    """Return a table with room for [slots], or [slots, columns]: itself, or one with what it holds.

    What is new holds `fill`. It may be written in inference mode and outside it.
    """
    wanted = (slots,) if columns is None else (slots, columns)
    shape = tuple(map(max, table.shape, wanted))
    if shape == tuple(table.shape):
        return table
    with torch.inference_mode(False):
        larger = table.new_full(shape, fill)
        larger[tuple(slice(size) for size in table.shape)] = table
    return larger
