"""Rotary positions in the half-split layout, for rows at any positions.

Everything is computed in float64 and rounded once to the dtype in which rows are rotated.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from nldc.runtime.checkpoint.config import RopeConfig
from nldc.runtime.checkpoint.rope_frequencies import (
    attention_factor,
    inverse_frequencies,
    query_factors,
)


@dataclass(frozen=True)
class _Tables:
    """What is known of positions 0 to `size` - 1; never changed, only replaced by a longer one."""

    size: int
    cos: Tensor
    sin: Tensor
    query: Tensor


class RopeTable:
    """Cosine, signed sine and query factor of every position reserved; grows on demand.

    `rotate(x, ...)` is `x * cos + swapped(x) * sin`, where `swapped` exchanges the halves of a head
    and the first half of `sin` is negated. Threads may reserve and read at once: longer tables are
    made apart and put in place by one assignment, and they never get shorter.
    """

    def __init__(
        self, rope: RopeConfig, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.rope = rope
        self.dtype = dtype
        self.device = device
        self.head_dim = head_dim
        self.frequencies = inverse_frequencies(rope, head_dim)
        self.factor = attention_factor(rope)
        self._growing = Lock()
        self._tables = _Tables(0, torch.empty(0), torch.empty(0), torch.empty(0))

    @property
    def size(self) -> int:
        """How many positions can be asked for."""
        return self._tables.size

    @property
    def address(self) -> int:
        """Where the tables lie."""
        return self._tables.cos.data_ptr()

    def reserve(self, size: int) -> None:
        """Make the tables cover positions 0 to size - 1."""
        if size <= self._tables.size:
            return
        with self._growing:
            if size > self._tables.size:
                self._tables = self._made(max(size, 2 * self._tables.size, 256))

    def _made(self, size: int) -> _Tables:
        position = torch.arange(size, dtype=torch.float64)
        angle = position[:, None] * self.frequencies
        cos, sin = angle.cos() * self.factor, angle.sin() * self.factor
        query = query_factors(self.rope, self.head_dim, position)
        return _Tables(
            size,
            torch.cat((cos, cos), -1).to(self.device, self.dtype),
            torch.cat((-sin, sin), -1).to(self.device, self.dtype),
            query.to(self.device, self.dtype),
        )

    def whole(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return cosine and signed sine [size, head_dim] and query factor [size] of all positions.

        These are replaced when more positions are reserved, and never changed.
        """
        tables = self._tables
        return tables.cos, tables.sin, tables.query

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return cosine [n, 1, head_dim], signed sine [n, 1, head_dim] and query factor [n, 1, 1].

        `positions` is int64 [n], each below the size reserved. The query factor is the softmax
        scale times the temperature.
        """
        tables = self._tables
        return (
            tables.cos[positions].unsqueeze(1),
            tables.sin[positions].unsqueeze(1),
            tables.query[positions].view(-1, 1, 1),
        )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [n, heads, head_dim] by the tables of n positions; the result has the dtype of x."""
    swapped = torch.roll(x, x.shape[-1] // 2, -1)
    turned = (x * cos).add_(swapped * sin)
    return turned if turned.dtype == x.dtype else turned.to(x.dtype)
