"""The KV cache: one place a sequence, its length, and which rows are only speculative.

A place ("slot") holds committed rows, then speculative ones, then scratch room that every forward
overwrites. `keep` turns the first speculative rows into committed ones and forgets the rest, which
is only a change of length: nothing is copied.

Rows lie in tiles of `KEY_TILE`, each tile with all its key heads, so that a prefix of whole tiles
is one piece of memory and products of fixed shape read it where it lies. Memory is taken as it is
used: by half of what there is at a time, so that all copying together is a few times the end size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.errors import OutOfMemoryError
from nldc.runtime.invariant.line_tiles import KEY_TILE

FIRST_TILES = 4
"""With how many tiles a cache that grows begins, unless it needs more."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where the sequences of a batch lie in the cache, on the host and on the device.

    `slots` and `lengths` are also int64 [B] as `slot_index` and `start`.
    """

    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    slot_index: Tensor
    start: Tensor


class KVCache:
    """`keys[layer]` and `values[layer]` are [slots, tiles, kv_heads, KEY_TILE, head_dim].

    `data` is the memory of both: [2, layers, slots, tiles, kv_heads, KEY_TILE, head_dim]. With
    `grows` there are tiles for what was asked for so far by `reserve`, and never for more than
    `capacity` rows; each growth moves the rows, so views are taken after it.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        grows: bool = False,
    ) -> None:
        self.config = config
        self.capacity = capacity
        self.dtype = dtype
        self.device = device
        self._slots = slots
        self._hold(self._room(0 if grows else self._tiles(capacity)))
        self.committed = [0] * slots
        self.speculative = [0] * slots
        self._written = [0] * slots
        self._free = list(range(slots))[::-1]

    def reserve(self, rows: int) -> None:
        """Make room for so many rows of a place, at most `capacity`.

        Raises:
            OutOfMemoryError: there is none.
        """
        held, needed = self.data.shape[3], self._tiles(rows)
        if needed <= held:
            return
        most = self._tiles(self.capacity)
        comfortable = min(most, max(needed, held + held // 2, FIRST_TILES))
        try:
            fresh = self._room(comfortable)
        except OutOfMemoryError:
            if comfortable == needed:
                raise
            fresh = self._room(needed)
        fresh[:, :, :, :held] = self.data
        self._hold(fresh)

    def _tiles(self, rows: int) -> int:
        return -(-rows // KEY_TILE)

    def _room(self, tiles: int) -> Tensor:
        config = self.config
        heads = (config.num_kv_heads, KEY_TILE, config.head_dim)
        shape = (2, config.num_layers, self._slots, tiles, *heads)
        try:
            return torch.zeros(shape, dtype=self.dtype, device=self.device)
        except (RuntimeError, MemoryError) as problem:  # also sizes beyond what torch can count
            wanted = math.prod(shape) * self.dtype.itemsize
            raise OutOfMemoryError(
                f"there is no memory for the keys and values of {self._slots} sequences of "
                f"{tiles * KEY_TILE} tokens: {wanted} bytes ({wanted / 2**30:.1f} GiB) on "
                f"{self.device}",
                "use a smaller batch_size, fewer tokens, or a smaller dtype",
            ) from problem

    def _hold(self, data: Tensor) -> None:
        self.data = data
        self.keys: tuple[Tensor, ...] = data[0].unbind()
        self.values: tuple[Tensor, ...] = data[1].unbind()

    @property
    def has_room(self) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    def acquire(self) -> int:
        """Return a free slot, empty."""
        slot = self._free.pop()
        self.committed[slot] = self.speculative[slot] = 0
        return slot

    def release(self, slot: int) -> None:
        """Give a slot back for reuse."""
        self._free.append(slot)

    def length(self, slot: int) -> int:
        """Return the number of rows that the next forward sees as its prefix."""
        return self.committed[slot] + self.speculative[slot]

    def claim(self, slot: int, end: int) -> None:
        """Prepare a forward that reads the tiles of the first `end` rows: its own come last.

        What older forwards left behind them in the last tile becomes zero. A product gives those
        keys no weight, but no weight times NaN is NaN.
        """
        tile, row = divmod(end, KEY_TILE)
        stale = min(self._written[slot] - tile * KEY_TILE, KEY_TILE)
        if row and stale > row:
            self.data[:, :, slot, tile, :, row:stale] = 0
        self._written[slot] = max(self._written[slot], end)

    def append(self, slot: int, rows: int) -> None:
        """Let the first `rows` rows written behind the length stay, as speculative ones."""
        self.speculative[slot] += rows

    def keep(self, slot: int, rows: int | None) -> None:
        """Commit the first `rows` speculative rows (None: all) and forget the others."""
        have = self.speculative[slot]
        if rows is not None and not 0 <= rows <= have:
            raise ValueError(f"cannot keep {rows} of {have} speculative rows")
        self.committed[slot] += have if rows is None else rows
        self.speculative[slot] = 0

    def forget(self, slot: int, rows: int) -> None:
        """Forget the last `rows` committed rows, between steps: no row is speculative then."""
        if self.speculative[slot] or not 0 <= rows <= self.committed[slot]:
            raise ValueError(f"cannot forget {rows} of {self.committed[slot]} committed rows")
        self.committed[slot] -= rows


def tiled(rows: Tensor) -> Tensor:
    """Return [slots, kv_heads, n, head_dim] as the cache holds it, with zeros behind row n."""
    slots, kv_heads, count, dim = rows.shape
    tiles = -(-count // KEY_TILE)
    held = rows.new_zeros(slots, kv_heads, tiles * KEY_TILE, dim)
    held[:, :, :count] = rows
    return held.view(slots, kv_heads, tiles, KEY_TILE, dim).transpose(1, 2).contiguous()


def untiled(held: Tensor) -> Tensor:
    """Return one layer's keys or values as [slots, kv_heads, tiles * KEY_TILE, head_dim]."""
    slots, tiles, kv_heads, _, dim = held.shape
    return held.transpose(1, 2).reshape(slots, kv_heads, tiles * KEY_TILE, dim)
