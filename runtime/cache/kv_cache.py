"""The KV cache: pages of a pool, a table of them for each sequence, and which rows are speculative.

A sequence holds committed rows, then speculative ones, then scratch room that every forward
overwrites. `keep` turns the first speculative rows into committed ones and forgets the rest, which
is only a change of length: nothing is copied.

A page has `KEY_TILE` rows with all their key heads, so that pages in a row are one piece of memory
and products of fixed shape read it where it lies. A sequence is let in if all that it may need fits
beside all that the others may need, so that none can run out of memory on its way. `pool` has the
memory, `holdings` which pages are whose, `page_table` the same for kernels.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.cache.budget import budget_of
from nldc.runtime.cache.holdings import Holdings, pages_of
from nldc.runtime.cache.page_table import PageTable
from nldc.runtime.cache.pages import Runs
from nldc.runtime.cache.pool import Pool, shown_size
from nldc.runtime.cache.prefix import Prefixes
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.errors import OutOfMemoryError
from nldc.runtime.invariant.line_tiles import KEY_TILE


@dataclass(frozen=True, eq=False)
class Places:
    """Where the sequences of a batch lie in the cache, on the host and on the device.

    `slots` and `lengths` are also int64 [B] as `slot_index` and `start`. `prompts` are the lengths
    of the sequences' prompts, also as `begin`, where somebody may ask for them.
    """

    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    slot_index: Tensor
    start: Tensor
    prompts: tuple[int, ...] | None = None
    begin: Tensor | None = None


def moves(path: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return which rows go where, so that the first `keep` [B] of a path [B, r] are the first ones.

    Both are int64 [B, r], numbers behind the sequences' lengths; what does not stay, stays put.
    """
    to = torch.arange(path.shape[1], device=path.device).expand_as(path)
    return torch.where(to < keep.unsqueeze(1), path, to), to


class KVCache:
    """`keys[layer]` and `values[layer]` are [pages, kv_heads, KEY_TILE, head_dim].

    `data` is the memory of both: [2, layers, pages, kv_heads, KEY_TILE, head_dim]. It never takes
    more than `budget` bytes (None: see `budget.budget_of`), but for a moment while it is copied.
    `reserve`, `claim` and `release` may move pages, so views are taken after them.
    `keep_prefixes` is how many bytes of shared pages are kept when nobody uses them any more.
    With `steady`, memory is taken at once for all that the sequences may need, and not given back:
    it seldom moves.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        budget: int | None = None,
        *,
        keep_prefixes: int = 0,
        steady: bool = False,
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.device = device
        self.budget = budget_of(None, device) if budget is None else budget
        self.keep_prefixes = keep_prefixes
        self.steady = steady
        self.committed: dict[int, int] = {}
        self.speculative: dict[int, int] = {}
        self._pool = Pool(config, dtype, device, keep_prefixes)
        self.page_bytes = self._pool.page_bytes
        self.most_pages = self.budget // self.page_bytes
        self._table = PageTable(device)
        self._is_table_read = device.type == "cuda"
        self._holdings = Holdings(self._pool, self.most_pages, self._table.stale.add, steady=steady)
        self._unused: list[int] = []

    def renewed(self) -> KVCache:
        """Return a cache like this one that holds nothing, whatever became of this one."""
        return KVCache(
            self.config,
            self.dtype,
            self.device,
            self.budget,
            keep_prefixes=self.keep_prefixes,
            steady=self.steady,
        )

    # What it consists of

    @property
    def data(self) -> Tensor:
        """The memory of all pages, keys first."""
        return self._pool.data

    @property
    def keys(self) -> tuple[Tensor, ...]:
        """The keys of each layer."""
        return self._pool.keys

    @property
    def values(self) -> tuple[Tensor, ...]:
        """The values of each layer."""
        return self._pool.values

    @property
    def prefixes(self) -> Prefixes:
        """The names of pages."""
        return self._pool.prefixes

    @property
    def used(self) -> int:
        """The number of pages that hold something, those of kept prefixes included."""
        return self._pool.pages.used

    @property
    def table(self) -> Tensor:
        """The pages of each slot, int32 [slots, n] on the device; what lies behind them is 0."""
        self._is_table_read = True
        if self._table.stale:
            self._write_table()
        return self._table.there

    def _write_table(self) -> None:
        self._table.write({slot: held.table for slot, held in self._holdings.held.items()})

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where the pages and their table lie, and how many and how wide they are."""
        data, table = self._pool.data, self.table
        return (data.data_ptr(), data.shape[2], table.data_ptr(), *table.shape)

    # Sequences

    def has_room(self, *rows: int) -> bool:
        """Whether sequences of so many rows fit, beside all that the others may still need."""
        return self._holdings.promised + sum(map(pages_of, rows)) <= self.most_pages

    def check(self, *rows: int) -> None:
        """Raise OutOfMemoryError if sequences of so many rows can never fit together."""
        if sum(map(pages_of, rows)) > self.most_pages:
            raise self._too_much(sum(rows), self.budget)

    def _too_much(self, rows: int, allowed: int) -> OutOfMemoryError:
        wanted = pages_of(rows) * self.page_bytes
        return OutOfMemoryError(
            f"the keys and values of a sequence of up to {rows} tokens take {shown_size(wanted)} "
            f"on {self.device}, and they may take {shown_size(allowed)}",
            "use a smaller max_new_tokens, a shorter prompt, or a larger --kv-memory",
        )

    def acquire(self, rows: int) -> int:
        """Return a slot, empty, for a sequence that will never have more than so many rows.

        Slots are the smallest numbers that are free.

        Raises:
            OutOfMemoryError: the budget does not allow that.
        """
        if not self.has_room(rows):
            self.check(rows)
            promised = self._holdings.promised * self.page_bytes
            raise self._too_much(rows, self.budget - promised)
        slot = heapq.heappop(self._unused) if self._unused else len(self._holdings.held)
        self._holdings.open(slot, pages_of(rows))
        self.committed[slot] = self.speculative[slot] = 0
        return slot

    def release(self, slot: int) -> None:
        """Give a slot and its pages back for reuse."""
        held = self._holdings.close(slot)
        del self.committed[slot], self.speculative[slot]
        heapq.heappush(self._unused, slot)
        self._table.stale.discard(slot)
        self._holdings.give_back(held)

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

    # Prefixes

    def adopt(self, slot: int, names: Sequence[bytes], rows: int) -> int:
        """Let an empty slot begin with the pages of these names, as far as they are there.

        They hold at most `rows` rows, which become speculative ones. Returns how many those are.
        """
        found = list(self.prefixes.find(names[: rows // KEY_TILE]))
        if found:
            self._holdings.adopt(slot, found)
            self.append(slot, len(found) * KEY_TILE)
        return len(found) * KEY_TILE

    def enter(self, slot: int, names: Sequence[bytes]) -> None:
        """Let others find the first pages of a slot, which are written, by their names."""
        for page, name in zip(self._holdings.held[slot].table, names, strict=False):
            self.prefixes.enter(page, name)

    # Pages

    def reserve(self, slots: Sequence[int], rows: Sequence[int]) -> None:
        """Make room for the first so many rows of each slot: those behind its length are written.

        A page that others see as well is copied before that.

        Raises:
            ValueError: a slot was not acquired for so many.
            OutOfMemoryError: there is no memory.
        """
        missing: dict[int, int] = {}
        for slot, end in zip(slots, rows, strict=True):
            number = self._holdings.missing(slot, self.length(slot), end)
            if number > 0:
                missing[slot] = number
        if missing:
            self._holdings.grow(missing)

    def may_hold(self, slots: Sequence[int], rows: Sequence[int]) -> bool:
        """Whether each slot was acquired for so many rows."""
        held = self._holdings.held
        pairs = zip(slots, rows, strict=True)
        return all(end <= held[slot].most * KEY_TILE for slot, end in pairs)

    def prepare(self, slots: Sequence[int], rows: Sequence[int]) -> None:
        """Reserve rows before a step that is thought to write them, as far as each slot may need.

        The tables of a device are written here, where anybody reads them, so that the step itself
        uploads none.

        Raises:
            OutOfMemoryError: there is no memory.
        """
        held = self._holdings.held
        ends = zip(slots, rows, strict=True)
        self.reserve(slots, [min(end, held[slot].most * KEY_TILE) for slot, end in ends])
        if self._table.stale and self._is_table_read:
            self._write_table()

    def claim(self, slot: int, end: int) -> None:
        """Prepare a forward that reads the pages of the first `end` rows: its own come last.

        What older forwards left behind them in the last page becomes zero. A product gives those
        keys no weight, but no weight times NaN is NaN.
        """
        table, pool = self._holdings.held[slot].table, self._pool
        last, row = divmod(end, KEY_TILE)
        for page in table[self.length(slot) // KEY_TILE : last]:
            pool.filled[page] = KEY_TILE
        if row:
            pool.claim(table[last], row)

    def pages(self, slot: int) -> tuple[int, ...]:
        """Return the pages of a slot, in the order of its rows."""
        return tuple(self._holdings.held[slot].table)

    def rows_behind(self, slots: Sequence[int], rows: int) -> Tensor:
        """Return the bytes of the pages that hold the next so many rows of each slot, as a copy."""
        found: list[int] = []
        for slot in slots:
            first, last = self.committed[slot], self.committed[slot] + rows
            found += self._holdings.held[slot].table[first // KEY_TILE : -(-last // KEY_TILE)]
        index = torch.tensor(found, dtype=torch.int64).to(self.device)
        return self.data.index_select(2, index).view(torch.uint8)

    def runs(self, slot: int, pages: int) -> Runs:
        """Return the first so many pages of a slot as runs that lie in a row."""
        runs = self._holdings.held[slot].runs
        if len(runs) == 1:
            return ((runs[0][0], pages),)
        found = []
        for first, count in runs:
            if pages <= 0:
                break
            found.append((first, min(count, pages)))
            pages -= count
        return tuple(found)

    def remembered(self, slot: int) -> dict[int, Any]:
        """Return what others remember of a slot's first so many pages, such as views of them.

        It is forgotten when the slot has other pages, or they lie elsewhere.
        """
        return self._holdings.held[slot].remembered
