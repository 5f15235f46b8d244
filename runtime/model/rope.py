"""Rotary positions in the half-split layout: default, linear or YaRN, and the query temperature.

YaRN is eq. 17 to 22 of arXiv 2309.00071 with the attention factor of its released code; the
temperature is the `1 + beta * ln(1 + floor(position / original context))` of the released configs.
Everything is computed in float64 and rounded once to the dtype in which rows are rotated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor

from nldc.runtime.checkpoint.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Return the rotation per position of each pair of features: float64 [head_dim / 2]."""
    pair = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    plain = rope.theta**-pair
    if rope.rope_type == "default":
        return plain
    if rope.rope_type == "linear":
        return plain / rope.factor

    def dimension(rotations: float) -> float:
        turns = rope.original_context / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    index = torch.arange(head_dim // 2, dtype=torch.float64)
    interpolated = ((index - low) / (high - low)).clamp(0, 1)
    return plain / rope.factor * interpolated + plain * (1 - interpolated)


def attention_factor(rope: RopeConfig) -> float:
    """Return the factor on cosine and sine that YaRN asks for; 1 for the other types."""
    if rope.rope_type != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor

    def scale(mscale: float) -> float:
        return 0.1 * mscale * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0

    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)


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
        self.scale = head_dim**-0.5
        self.frequencies = inverse_frequencies(rope, head_dim)
        self.factor = attention_factor(rope)
        self._growing = Lock()
        self._tables = _Tables(0, torch.empty(0), torch.empty(0), torch.empty(0))

    @property
    def size(self) -> int:
        """How many positions can be asked for."""
        return self._tables.size

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
        query = torch.full_like(position, self.scale)
        if self.rope.llama_4_beta:
            spans = torch.floor(position / self.rope.original_context)
            query *= 1 + self.rope.llama_4_beta * torch.log1p(spans)
        return _Tables(
            size,
            torch.cat((cos, cos), -1).to(self.device, self.dtype),
            torch.cat((-sin, sin), -1).to(self.device, self.dtype),
            query.to(self.device, self.dtype),
        )

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
    return turned.to(x.dtype)
