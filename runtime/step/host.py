"""The one way from the device to the host: a copy that is waited for when it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Copy:
    """Values on their way to the host, in the order of the device's work."""

    values: Tensor
    arrived: torch.Event | None

    @staticmethod
    def of(values: Tensor) -> Copy:
        """Begin to copy; nothing waits here."""
        if values.device.type != "cuda":
            return Copy(values, None)
        there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        there.copy_(values, non_blocking=True)
        arrived = torch.Event(values.device)
        arrived.record()
        return Copy(there, arrived)

    @staticmethod
    def apart(values: Tensor) -> Copy:
        """Begin to copy values that are written over before they are read."""
        return Copy.of(values if values.device.type == "cuda" else values.clone())

    def read(self) -> list[Any]:
        """Return the values as (nested) lists, when they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.values.tolist()
