"""Which pages each slot holds, as kernels read it: a table on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nldc.runtime.cache.capacity import grown, slots_for

TABLE_STEP = 16
"""The pages of a table on the device are a multiple of this."""


class PageTable:
    """int32 [slots, n] on the host, and as `there` on the device.

    `stale` are the slots whose pages are others than its lines say. It doubles where it grows, so
    that it seldom moves.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._here = torch.zeros((0, TABLE_STEP), dtype=torch.int32)
        self.there = self._here.to(device)
        self.stale: set[int] = set()

    def write(self, tables: Mapping[int, Sequence[int]]) -> None:
        """Write the lines of stale slots; `tables` are the pages of all slots.

        What lies behind the pages of a slot is 0.
        """
        slots = sorted(self.stale)
        width = max(len(tables[slot]) for slot in slots)
        lines, have = self._here.shape
        if width > have:
            width = max(-(-width // TABLE_STEP) * TABLE_STEP, 2 * have if lines else 0)
        here = grown(self._here, slots_for(slots[-1] + 1, lines), width)
        if here is not self._here:
            self._here = here
            with torch.inference_mode(False):
                self.there = here.to(self._device, copy=True)
        for slot in slots:
            table = tables[slot]
            self._here[slot] = 0
            self._here[slot, : len(table)] = torch.tensor(table, dtype=torch.int32)
        index = torch.tensor(slots)
        self.there[self._sent(index)] = self._sent(self._here[index])
        self.stale.clear()

    def _sent(self, values: Tensor) -> Tensor:
        """Return values on the device; nothing waits for what it is at, as steps may be."""
        if self._device.type != "cuda":
            return values.to(self._device)
        return values.pin_memory().to(self._device, non_blocking=True)
