"""Which pages each slot holds, as kernels read it: a table on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

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
        have = self._here.shape
        if slots[-1] >= have[0] or width > have[1]:
            if width > have[1]:
                width = max(-(-width // TABLE_STEP) * TABLE_STEP, 2 * have[1] if have[0] else 0)
            lines = max(slots[-1] + 1, 2 * have[0]) if slots[-1] >= have[0] else have[0]
            with torch.inference_mode(False):
                grown = torch.zeros((lines, max(width, have[1])), dtype=torch.int32)
                self.there = grown.to(self._device, copy=True)
            grown[: have[0], : have[1]] = self._here
            self._here = grown
            slots = sorted({*slots, *tables})
        for slot in slots:
            table = tables[slot]
            self._here[slot] = 0
            self._here[slot, : len(table)] = torch.tensor(table, dtype=torch.int32)
        index = torch.tensor(slots)
        self.there[index.to(self._device)] = self._here[index].to(self._device)
        self.stale.clear()
