"""The KV cache: one preallocated place a sequence, its length, and which rows are only speculative.

A place ("slot") holds committed rows, then speculative ones, then scratch room that every forward
overwrites. `keep` turns the first speculative rows into committed ones and forgets the rest, which
is only a change of length: nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nldc.runtime.config import ModelConfig


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
    """`keys[layer]` and `values[layer]` are [slots, kv_heads, capacity, head_dim].

    `slot_keys[layer][slot]` and `slot_values[layer][slot]` are the same memory, sequence by
    sequence.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (config.num_layers, slots, config.num_kv_heads, capacity, config.head_dim)
        self.capacity = capacity
        self.dtype = dtype
        self.device = device
        self.keys: tuple[Tensor, ...] = torch.empty(shape, dtype=dtype, device=device).unbind()
        self.values: tuple[Tensor, ...] = torch.empty(shape, dtype=dtype, device=device).unbind()
        self.slot_keys = tuple(layer.unbind() for layer in self.keys)
        self.slot_values = tuple(layer.unbind() for layer in self.values)
        self.committed = [0] * slots
        self.speculative = [0] * slots
        self._free = list(range(slots))[::-1]

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
