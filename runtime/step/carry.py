"""What sequences carry from a step to the next, on the device: a table a name, a line a slot.

The language carries token ids, as many at every step of a strategy: never `Tokens[<=n]`, whose
number differs by sequence, nor as many as a prompt has; a Count is one number. So a line needs no
count beside it, and what a strategy reads is as wide as what it wrote. Strategies of one artifact
share the table of a name that they both carry, which is as wide as the widest of them; the columns
behind a narrower value mean nothing and are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nldc.runtime.cache.capacity import grown
from nldc.runtime.step import noted_ops
from nldc.runtime.step.noted import Notes

Form = tuple[tuple[str, int], ...]
"""The names that a sequence carries, in their order, and how many numbers under each."""


class Carry:
    """Carried values, int64 [slots, n] a name; the host knows which slots carry what.

    A table moves only if a slot, or a wider value, has no room in it. Nothing here reads the
    device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tables: dict[str, Tensor] = {}
        self._forms: list[Form | None] = []
        self._views: dict[Form, dict[str, Tensor]] = {}

    def reserve(self, slots: int) -> None:
        """Have room for so many slots."""
        if slots <= len(self._forms):
            return
        tables = {name: grown(table, slots, table.shape[1]) for name, table in self._tables.items()}
        self._tables = tables
        self._views = {}
        self._forms += [None] * (slots - len(self._forms))

    def read(
        self, slots: Sequence[int], slot_index: Tensor, notes: Notes | None = None
    ) -> dict[str, Tensor]:
        """Return what slots carry, int64 [B, n] each; `slot_index` int64 [B] are the same slots.

        These are copies, in which a later `write` changes nothing; with `notes`, they are noted.

        Raises:
            ValueError: a slot carries nothing, or not as many under the same names as another.
        """
        form = self._forms[slots[0]]
        if form is None:
            raise ValueError(f"slot {slots[0]} carries nothing")
        for slot in slots:
            if self._forms[slot] != form:
                raise ValueError(f"slots {slots[0]} and {slot} do not carry the same names")
        views = self._views.get(form) or self._made(form)
        if notes is not None:
            return {
                name: noted_ops.read(notes, view, view.shape[1]) for name, view in views.items()
            }
        return {name: view.index_select(0, slot_index) for name, view in views.items()}

    def write(
        self,
        slots: Sequence[int],
        slot_index: Tensor,
        values: Mapping[str, Tensor],
        notes: Notes | None = None,
    ) -> None:
        """Let slots carry these values, int64 [B, n] each, and no others; or note that they do."""
        form = tuple(sorted([(name, value.shape[1]) for name, value in values.items()]))
        views = self._views.get(form) or self._made(form)
        for name, value in values.items():
            if notes is None:
                views[name].index_copy_(0, slot_index, value)
            else:
                noted_ops.keep(notes, views[name], value)
        for slot in slots:
            self._forms[slot] = form

    def form(self, slot: int) -> Form | None:
        """Return what a slot carries; None: nothing."""
        return self._forms[slot]

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where the tables lie, and how wide they are."""
        tables = self._tables.values()
        return tuple([number for each in tables for number in (each.data_ptr(), each.shape[1])])

    def put(self, slot: int, values: Mapping[str, Sequence[int]]) -> None:
        """Let a slot carry these numbers, which the host has, and no others."""
        form = tuple(sorted([(name, len(value)) for name, value in values.items()]))
        self._made(form)
        for name, value in values.items():
            line = torch.tensor(value, dtype=torch.int64)
            self._tables[name][slot, : len(value)].copy_(line)
        self._forms[slot] = form

    def forget(self, slot: int) -> None:
        """Let a slot carry nothing."""
        if slot < len(self._forms):
            self._forms[slot] = None

    def _made(self, form: Form) -> dict[str, Tensor]:
        """Return the columns of a form in the tables, made larger if they have no room for it."""
        for name, width in form:
            self._widen(name, width)
        views = {name: self._tables[name][:, :width] for name, width in form}
        self._views[form] = views
        return views

    def _widen(self, name: str, width: int) -> None:
        slots = len(self._forms)
        table = self._tables.get(name)
        if table is None:
            table = torch.zeros((slots, 0), dtype=torch.int64, device=self._device)
        if width > table.shape[1] or name not in self._tables:
            self._tables[name] = grown(table, slots, max(width, table.shape[1]))
            self._views = {}
