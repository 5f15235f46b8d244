"""What attention keeps from forward to forward: memory to compute in, and masks of few rows.

A step of a few rows takes a few milliseconds, and making these anew for every one of them is a part
of that which shows. What is large is not kept.
"""

from __future__ import annotations

import math
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.invariant.line_tiles import KEY_TILE, Cut, cut
from nldc.runtime.rows.plan import Plan

KEPT_BYTES = 1 << 20
"""Of what is larger, each forward makes its own."""
KEPT_ROOMS = 16
"""For so many numbers of rows and tiles there is a room."""
LEAST_PREFIX = 512
"""Keys of a prefix that a mask is made for at least."""


@dataclass(frozen=True, eq=False)
class Heads:
    """The heads of a model, and in what their attention is computed."""

    kv_heads: int
    shared: int
    dim: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, eq=False)
class Room:
    """Memory for the attention of some rows over some tiles.

    The products have `sizes` lines of `lines` [kv_heads, lines, dim]; what is behind the rows'
    stays zero, and `rows` [R, kv_heads, shared, dim] is a view of the rest. `by_size` has, for each
    size, the lines once for every tile, [tiles, kv_heads, size, dim], and their scores,
    [kv_heads, size, tiles, KEY_TILE].
    """

    sizes: tuple[int, ...]
    lines: Tensor
    rows: Tensor
    by_size: dict[int, tuple[Tensor, Tensor]]

    @staticmethod
    def of(heads: Heads, rows: int, tiles: int, how: Cut) -> Room:
        """Return a room for so many rows and tiles."""
        kv_heads, shared, dim = heads.kv_heads, heads.shared, heads.dim
        like: dict[str, Any] = {"dtype": heads.dtype, "device": heads.device}
        used = rows * shared
        sizes = cut(used, how.sizes)
        with torch.inference_mode(False):  # it outlives the forward
            lines = torch.zeros((kv_heads, sum(sizes), dim), **like)
            by_head = lines[:, :used].view(kv_heads, rows, shared, dim)
            by_size = {
                size: (
                    torch.empty((tiles, kv_heads, size, dim), **like),
                    torch.empty((kv_heads, size, tiles, KEY_TILE), **like),
                )
                for size in set(sizes)
            }
            return Room(sizes, lines, by_head.transpose(0, 1), by_size)

    @property
    def bytes(self) -> int:
        """How much memory it takes."""
        held = (self.lines, *(each for both in self.by_size.values() for each in both))
        return sum(each.nbytes for each in held)


class Scratch(threading.local):
    """Rooms and masks of one model's forwards, each thread's its own.

    The forwards of a thread come one after another, so they may all compute in one room.
    """

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self._rooms: dict[tuple[int, int, Cut], Room] = {}
        self._masks: weakref.WeakKeyDictionary[Plan, tuple[int, Tensor]] = (
            weakref.WeakKeyDictionary()
        )

    def room(self, rows: int, tiles: int, how: Cut) -> Room:
        """Return a room for so many rows and tiles; it is yours until you ask again."""
        key = (rows, tiles, how)
        room = self._rooms.get(key)
        if room is None:
            room = Room.of(self.heads, rows, tiles, how)
            if room.bytes <= KEPT_BYTES:
                if len(self._rooms) >= KEPT_ROOMS:
                    del self._rooms[next(iter(self._rooms))]
                self._rooms[key] = room
        return room

    def bias(self, plan: Plan, lines: int, length: int, tiles: int) -> Tensor | None:
        """Return what is added to scores, [lines, keys of so many tiles] of 0 and -inf.

        Every row sees the whole prefix, of `length` keys, and of the rows what `plan.own` says.
        What is kept reads zeros, then that, then -inf: a part of it is right for each length. None:
        it would be too large.
        """
        before, mask = self._masks.get(plan) or (-1, None)
        if mask is None or length > before or len(mask) != lines:
            before, mask = self._mask(plan, lines, length)
        if mask is None:
            return None
        return mask.narrow(1, before - length, tiles * KEY_TILE)

    def _mask(self, plan: Plan, lines: int, length: int) -> tuple[int, Tensor | None]:
        own, shared = plan.own, self.heads.shared
        before = max(LEAST_PREFIX, 2 * length)
        width = before + plan.layout.size + KEY_TILE
        if own is None or lines * width * own.itemsize > KEPT_BYTES:
            return before, None
        with torch.inference_mode(False):
            mask = own.new_zeros(lines, width)
            used = mask[: plan.layout.size * shared].view(plan.layout.size, shared, width)
            used[:, :, before:] = -math.inf
            used[:, :, before : before + plan.layout.size] = own.unsqueeze(1)
        self._masks[plan] = (before, mask)
        return before, mask
