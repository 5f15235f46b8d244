"""The live sequences of one strategy, and what they carry from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nldc.runtime.engine.request import Request


@dataclass
class Group:
    """`carry` holds values [B, n], a row for each of the `live` sequences, in order."""

    live: list[Request] = field(default_factory=list)
    carry: dict[str, Tensor] = field(default_factory=dict)

    def join(self, request: Request, carry: Mapping[str, Tensor]) -> None:
        """Add a sequence with its carried values, [1, n] each."""
        joined = {
            name: torch.cat((self.carry[name], fresh)) if self.live else fresh
            for name, fresh in carry.items()
        }
        self.live, self.carry = [*self.live, request], joined

    def drop(self, request: Request) -> None:
        """Let one sequence leave."""
        self._keep([place for place, one in enumerate(self.live) if one is not request])

    def sweep(self) -> None:
        """Let those leave that are done."""
        if any(request.done for request in self.live):
            self._keep([place for place, one in enumerate(self.live) if not one.done])

    def carry_of(self, place: int) -> dict[str, Tensor]:
        """Return the carried values of one sequence, [1, n] each."""
        return {name: value[place : place + 1] for name, value in self.carry.items()}

    def _keep(self, places: list[int]) -> None:
        if not places:
            self.live, self.carry = [], {}
            return
        left = {
            name: value.index_select(
                0, torch.tensor(places, dtype=torch.int64, device=value.device)
            )
            for name, value in self.carry.items()
        }
        self.live, self.carry = [self.live[place] for place in places], left
