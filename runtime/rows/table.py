"""Numbers of rows that a strategy fixes: written once in generated code, once on each device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Table:
    """Row numbers, [n], or a line of them for each value of a count, [counts, n].

    `on` gives them as int64 on a device, where they are put when first asked for: a step that
    chooses rows uploads nothing.
    """

    numbers: Tensor
    _there: dict[torch.device, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(numbers: Sequence[int] | Sequence[Sequence[int]]) -> Table:
        """Return the table of these numbers.

        Raises:
            ValueError: lines of different lengths.
        """
        return Table(torch.tensor(numbers, dtype=torch.int64))

    def on(self, device: torch.device) -> Tensor:
        """Return the numbers, int64, on `device`."""
        there = self._there.get(device)
        if there is None:
            there = self._there[device] = self.numbers.to(device)
        return there
