"""What requests bring of a strategy's params: checked numbers, and the device's lines of them.

A step asks for a param, or for what an expression over params is worth (`Worth`). Both are worked
out by the host when a sequence joins, in Python's numbers as the compiler would have, and lie on
the device in a column with a line for each slot: a step uploads nothing, a batch mixes values, and
what was captured for one value serves them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nldc.runtime.cache.capacity import grown
from nldc.runtime.step.noted import SCORES, Notes, as_tensor

Role = Literal["score", "count", "temperature"]
"""What a number is for: to compare or weigh scores, in their dtype; to count rows, int64; or to
divide logits by, float64.
"""
Given = Mapping[str, int | float]
"""What a sequence brings, by the names of params; of what is not in it, the default holds."""


@dataclass(frozen=True)
class Param:
    """A param that requests bring: a whole number if its `default` is one, from `low` to `high`."""

    name: str
    default: int | float
    low: int | float
    high: int | float
    help: str = ""

    @property
    def kind(self) -> Literal["int", "float"]:
        """Its type, as a strategy file has it."""
        return "int" if isinstance(self.default, int) else "float"

    def of(self, given: Given) -> int | float:
        """Return its value for a sequence."""
        return given.get(self.name, self.default)


@dataclass(frozen=True, eq=False)
class Worth:
    """A number that follows from params, by a function of their values in order."""

    params: tuple[Param, ...]
    by: Callable[..., int | float]

    def of(self, given: Given) -> int | float:
        """Return its value for a sequence."""
        return self.by(*(param.of(given) for param in self.params))


Asked = Param | Worth


def dtype_of(role: Role, scores: torch.dtype) -> torch.dtype:
    """Return the dtype of a number, by what it is for; `scores` is that of scores."""
    return {"score": scores, "count": torch.int64, "temperature": torch.float64}[role]


def values_of(
    asked: Asked, role: Role, given: Iterable[Given], scores: torch.dtype, device: torch.device
) -> Tensor:
    """Return what sequences bring, [B, 1]."""
    values = [[number_of(asked, role, each, scores)] for each in given]
    return torch.tensor(values, dtype=dtype_of(role, scores), device=device)


def number_of(asked: Asked, role: Role, given: Given, scores: torch.dtype) -> int | float:
    """Return what a sequence brings; what its dtype cannot hold is infinite, beyond every score."""
    value = asked.of(given)
    if role == "count":
        return value
    try:
        number = float(value)
    except OverflowError:  # a product of many whole numbers
        number = math.inf if value > 0 else -math.inf
    if abs(number) > torch.finfo(dtype_of(role, scores)).max:
        return math.copysign(math.inf, number)
    return number


class Columns:
    """The lines of all slots: a column for each thing that steps ask for.

    `scores` is the dtype of scores. A column is there from `expect` on, or from when it is first
    read; it moves only if a slot has no room in it.
    """

    def __init__(self, scores: torch.dtype, device: torch.device) -> None:
        self._scores = scores
        self._device = device
        self._given: list[Given] = []
        self._columns: dict[tuple[Asked, Role], Tensor] = {}

    def expect(self, asked: Iterable[tuple[Asked, Role]]) -> None:
        """Have columns for what steps will ask."""
        for key in asked:
            self._column(*key)

    def reserve(self, slots: int) -> None:
        """Have room for so many slots."""
        if slots > len(self._given):
            self._columns = {key: grown(each, slots) for key, each in self._columns.items()}
            self._given += [{}] * (slots - len(self._given))

    def put(self, slot: int, given: Given) -> None:
        """Let the sequence of a slot bring these."""
        self._given[slot] = given
        for (asked, role), column in self._columns.items():
            column[slot] = number_of(asked, role, given, self._scores)

    def read(
        self, asked: Asked, role: Role, slot_index: Tensor, notes: Notes | None = None
    ) -> Tensor:
        """Return what the sequences of slots, int64 [B], bring: [B, 1].

        With `notes` it is noted, where it is of a dtype that can be.
        """
        column = self._column(asked, role)
        if notes is not None and column.dtype in (torch.int64, SCORES):
            return as_tensor(notes.line(column)).unsqueeze(1)
        return column.index_select(0, slot_index).unsqueeze(1)

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where the columns lie."""
        return tuple([each.data_ptr() for each in self._columns.values()])

    def _column(self, asked: Asked, role: Role) -> Tensor:
        key = (asked, role)
        if key not in self._columns:
            dtype = dtype_of(role, self._scores)
            numbers = [number_of(asked, role, each, self._scores) for each in self._given]
            with torch.inference_mode(False):
                self._columns[key] = torch.tensor(numbers, dtype=dtype, device=self._device)
        return self._columns[key]
