"""The KV cache: pages of a pool, a table of them for each sequence, and which rows are speculative.

A sequence holds committed rows, then speculative ones, then scratch room that every forward
overwrites. `keep` turns the first speculative rows into committed ones and forgets the rest, which
is only a change of length: nothing is copied.

A page has `KEY_TILE` rows with all their key heads, so that pages in a row are one piece of memory
and products of fixed shape read it where it lies. The pool is taken as it is used, by half of what
there is at a time, and given back when little of it is. A sequence is let in if all that it may
need fits beside all that the others may need, so that none can run out of memory on its way.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nldc.runtime.cache.budget import budget_of
from nldc.runtime.cache.pages import Need, Pages, Runs, arrangement, coalesced, runs_of
from nldc.runtime.cache.prefix import Prefixes
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.errors import OutOfMemoryError
from nldc.runtime.invariant.line_tiles import KEY_TILE

FIRST_PAGES = 4
"""With how many pages a pool begins, unless it needs more."""
TABLE_STEP = 16
"""The pages of a table on the device are a multiple of this."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where the sequences of a batch lie in the cache, on the host and on the device.

    `slots` and `lengths` are also int64 [B] as `slot_index` and `start`.
    """

    slots: tuple[int, ...]
    lengths: tuple[int, ...]
    slot_index: Tensor
    start: Tensor


@dataclass(eq=False)
class _Held:
    """The pages of a sequence in order, and how many it may need; `runs` are the same pages.

    `remembered` is what others know of them.
    """

    most: int
    table: list[int] = field(default_factory=list)
    runs: Runs = ()
    remembered: dict[int, Any] = field(default_factory=dict)


class KVCache:
    """`keys[layer]` and `values[layer]` are [pages, kv_heads, KEY_TILE, head_dim].

    `data` is the memory of both: [2, layers, pages, kv_heads, KEY_TILE, head_dim]. It never takes
    more than `budget` bytes (None: see `budget.budget_of`), but for a moment while it is copied.
    `reserve`, `claim` and `release` may move pages, so views are taken after them.
    `keep_prefixes` is how many bytes of shared pages are kept when nobody uses them any more.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        budget: int | None = None,
        *,
        keep_prefixes: int = 0,
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.device = device
        self.budget = budget_of(None, device) if budget is None else budget
        self._page = (config.num_kv_heads, KEY_TILE, config.head_dim)
        self.page_bytes = 2 * config.num_layers * math.prod(self._page) * dtype.itemsize
        self.most_pages = self.budget // self.page_bytes
        self.committed: dict[int, int] = {}
        self.speculative: dict[int, int] = {}
        self.prefixes = Prefixes()
        self.keep_prefixes = keep_prefixes
        self._kept_at_most = keep_prefixes // self.page_bytes
        self._held: dict[int, _Held] = {}
        self._unused: list[int] = []
        self._promised = 0
        self._pages = Pages()
        self._filled: list[int] = []
        self._hold(self._room(0))
        self._table = torch.zeros((0, TABLE_STEP), dtype=torch.int32)
        self._table_there = self._table.to(device)
        self._stale: set[int] = set()

    def renewed(self) -> KVCache:
        """Return a cache like this one that holds nothing, whatever became of this one."""
        return KVCache(
            self.config, self.dtype, self.device, self.budget, keep_prefixes=self.keep_prefixes
        )

    # Sequences

    def has_room(self, rows: int) -> bool:
        """Whether a sequence of so many rows fits, beside all that the others may still need."""
        return self._promised + _pages_of(rows) <= self.most_pages

    def check(self, rows: int) -> None:
        """Raise OutOfMemoryError if a sequence of so many rows can never fit."""
        if _pages_of(rows) > self.most_pages:
            raise self._too_much(rows, self.budget)

    def acquire(self, rows: int) -> int:
        """Return a slot, empty, for a sequence that will never have more than so many rows.

        Slots are the smallest numbers that are free.

        Raises:
            OutOfMemoryError: the budget does not allow that.
        """
        if not self.has_room(rows):
            self.check(rows)
            raise self._too_much(rows, self.budget - self._promised * self.page_bytes)
        slot = heapq.heappop(self._unused) if self._unused else len(self._held)
        self._held[slot] = _Held(_pages_of(rows))
        self._promised += _pages_of(rows)
        self.committed[slot] = self.speculative[slot] = 0
        return slot

    def release(self, slot: int) -> None:
        """Give a slot and its pages back for reuse."""
        held = self._held.pop(slot)
        del self.committed[slot], self.speculative[slot]
        heapq.heappush(self._unused, slot)
        self._promised -= held.most
        self._stale.discard(slot)
        for page in reversed(held.table):
            self._give(page)
        self._shrink()

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
        held = self._held[slot]
        found = list(self.prefixes.find(names[: rows // KEY_TILE]))
        for place, page in enumerate(found):
            if not self.prefixes.wake(page):
                self._pages.take(page)
            if place < len(held.table):
                self._give(held.table[place])
                held.table[place] = page
            else:
                held.table.append(page)
        if found:
            self._set(slot, held)
            self.append(slot, len(found) * KEY_TILE)
        return len(found) * KEY_TILE

    def enter(self, slot: int, names: Sequence[bytes]) -> None:
        """Let others find the first pages of a slot, which are written, by their names."""
        for page, name in zip(self._held[slot].table, names, strict=False):
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
            held = self._held[slot]
            pages = _pages_of(end)
            if pages > held.most:
                raise ValueError(
                    f"{end} rows exceed the {held.most * KEY_TILE} that the sequence was to have: "
                    "SCRATCH_ROWS of the decoder is too small"
                )
            written = range(self.length(slot) // KEY_TILE, min(pages, len(held.table)))
            if any(self._is_shared(held.table[place]) for place in written):
                self._own(held, slot, written)
            if pages > len(held.table):
                missing[slot] = pages - len(held.table)
        if missing:
            self._make_room(missing)
            for slot, number in missing.items():
                self._extend(slot, number)

    def prepare(self, slots: Sequence[int], rows: Sequence[int]) -> None:
        """Reserve rows before a step that is thought to write them, as far as each slot may need.

        The tables of a device are written here, so that the step itself uploads none.

        Raises:
            OutOfMemoryError: there is no memory.
        """
        ends = zip(slots, rows, strict=True)
        self.reserve(slots, [min(end, self._held[slot].most * KEY_TILE) for slot, end in ends])
        if self._stale and self.device.type == "cuda":
            self._write_table()

    def claim(self, slot: int, end: int) -> None:
        """Prepare a forward that reads the pages of the first `end` rows: its own come last.

        What older forwards left behind them in the last page becomes zero. A product gives those
        keys no weight, but no weight times NaN is NaN.
        """
        table = self._held[slot].table
        last, row = divmod(end, KEY_TILE)
        for page in table[self.length(slot) // KEY_TILE : last]:
            self._filled[page] = KEY_TILE
        if row:
            page = table[last]
            if (stale := self._filled[page]) > row:
                self.data[:, :, page, :, row:stale] = 0
            self._filled[page] = row

    def pages(self, slot: int) -> tuple[int, ...]:
        """Return the pages of a slot, in the order of its rows."""
        return tuple(self._held[slot].table)

    def runs(self, slot: int, pages: int) -> Runs:
        """Return the first so many pages of a slot as runs that lie in a row."""
        runs = self._held[slot].runs
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
        return self._held[slot].remembered

    @property
    def table(self) -> Tensor:
        """The pages of each slot, int32 [slots, n] on the device; what lies behind them is 0."""
        if self._stale:
            self._write_table()
        return self._table_there

    @property
    def used(self) -> int:
        """The number of pages that hold something, those of kept prefixes included."""
        return self._pages.used

    def _write_table(self) -> None:
        slots = sorted(self._stale)
        width = max(len(self._held[slot].table) for slot in slots)
        have = self._table.shape
        if slots[-1] >= have[0] or width > have[1]:
            width = max(-(-width // TABLE_STEP) * TABLE_STEP, have[1])
            with torch.inference_mode(False):
                grown = torch.zeros((max(slots[-1] + 1, have[0]), width), dtype=torch.int32)
                self._table_there = grown.to(self.device, copy=True)
            grown[: have[0], : have[1]] = self._table
            self._table = grown
            slots = sorted({*slots, *self._held})
        for slot in slots:
            table = self._held[slot].table
            self._table[slot] = 0
            self._table[slot, : len(table)] = torch.tensor(table, dtype=torch.int32)
        index = torch.tensor(slots)
        self._table_there[index.to(self.device)] = self._table[index].to(self.device)
        self._stale.clear()

    def _room(self, pages: int) -> Tensor:
        shape = (2, self.config.num_layers, pages, *self._page)
        try:
            with torch.inference_mode(False):  # it outlives forwards, and is written outside
                return torch.zeros(shape, dtype=self.dtype, device=self.device)
        except (RuntimeError, MemoryError) as problem:  # also sizes beyond what torch can count
            wanted = math.prod(shape) * self.dtype.itemsize
            raise OutOfMemoryError(
                f"there is no memory for the keys and values of {pages * KEY_TILE} tokens: "
                f"{_size(wanted)} on {self.device}",
                "use a smaller batch_size, a smaller max_new_tokens, or a smaller dtype",
            ) from problem

    def _too_much(self, rows: int, allowed: int) -> OutOfMemoryError:
        wanted = _pages_of(rows) * self.page_bytes
        return OutOfMemoryError(
            f"the keys and values of a sequence of up to {rows} tokens take {_size(wanted)} on "
            f"{self.device}, and they may take {_size(allowed)}",
            "use a smaller max_new_tokens, a shorter prompt, or a larger --kv-memory",
        )

    def _hold(self, data: Tensor) -> None:
        self.data = data
        self.keys: tuple[Tensor, ...] = data[0].unbind()
        self.values: tuple[Tensor, ...] = data[1].unbind()

    def _set(self, slot: int, held: _Held) -> None:
        """Note that the table of a slot is another."""
        held.runs = runs_of(held.table)
        held.remembered.clear()
        self._stale.add(slot)

    def _give(self, page: int) -> None:
        """Let a sequence hold a page no more."""
        if not self._pages.give(page):
            return
        if page in self.prefixes and self._kept_at_most:
            self._pages.take(page)
            self.prefixes.rest(page)
            idle = self.prefixes.idle
            for old in idle[: max(0, len(idle) - self._kept_at_most)]:
                self._drop(old)
        else:
            self.prefixes.forget(page)

    def _drop(self, page: int) -> None:
        """Give up a page that was only kept."""
        self.prefixes.forget(page)
        self._pages.give(page)

    def _is_shared(self, page: int) -> bool:
        return page in self.prefixes or self._pages.users[page] > 1

    def _own(self, held: _Held, slot: int, places: Iterable[int]) -> None:
        """Let a sequence have these pages of its table for itself: copies, if others hold them."""
        for place in places:
            page = held.table[place]
            if self._pages.users[page] == 1:
                self.prefixes.forget(page)
                continue
            self._make_room({slot: 1})
            page = held.table[place]
            fresh = self._pages.scattered(1)[0]
            self._pages.take(fresh)
            self.data[:, :, fresh] = self.data[:, :, page]
            self._filled[fresh] = self._filled[page]
            held.table[place] = fresh
            self._pages.give(page)
            self._set(slot, held)

    def _make_room(self, missing: dict[int, int]) -> None:
        """Let there be free pages for what is missing, of each slot; pages may move."""
        wanted = sum(missing.values())
        if wanted <= self._pages.free:
            return
        idle = list(self.prefixes.idle)
        while self._pages.used + wanted > self.most_pages and idle:
            self._drop(idle.pop(0))
        if wanted <= self._pages.free:
            return
        needed = self._pages.used + wanted
        have = len(self._pages.users)
        most = max(needed, min(self.most_pages, self._promised + len(self.prefixes.idle)))
        comfortable = min(most, max(needed, have + have // 2, FIRST_PAGES))
        try:
            fresh = self._room(comfortable)
        except OutOfMemoryError:
            if comfortable == needed:
                raise
            fresh = self._room(needed)
        self._move_to(fresh, missing)

    def _shrink(self) -> None:
        """Give memory back if little of it is used."""
        used, have = self._pages.used, len(self._pages.users)
        count = max(used + used // 2, FIRST_PAGES) if used else 0
        if count < have and used * 3 <= have:
            try:
                fresh = self._room(count)
            except OutOfMemoryError:  # not even for that: what there is will do
                return
            self._move_to(fresh, {})

    def _move_to(self, fresh: Tensor, missing: dict[int, int]) -> None:
        """Let the pages lie in a pool with other room, those of a sequence in a row."""
        needs = [self._need(slot, missing.get(slot, 0)) for slot in self._held]
        count = fresh.shape[2]
        moved = arrangement(needs, self.prefixes.idle, count)
        for first, to, number in coalesced(moved):
            fresh[:, :, to : to + number] = self.data[:, :, first : first + number]
        filled = [0] * count
        for old, new in moved.items():
            filled[new] = self._filled[old]
        self._filled = filled
        self._pages.resize(count, moved)
        self.prefixes.move(moved)
        for slot, held in self._held.items():
            held.table = [moved[page] for page in held.table]
            self._set(slot, held)
        self._hold(fresh)

    def _need(self, slot: int, missing: int) -> Need:
        held = self._held[slot]
        return Need(held.table, missing, held.most)

    def _extend(self, slot: int, number: int) -> None:
        """Add free pages to a slot: behind those that it has, or in a row elsewhere, or anywhere.

        A sequence moves only to where it may grow by half, so that all moves together copy a few
        times what it ends with.
        """
        held, pages = self._held[slot], self._pages
        need = self._need(slot, number)
        begin, end = 0, 0
        if held.table:
            end = held.table[-1] + 1
            begin = pages.free_from(end, number)
            start = end if begin == number else self._relocate(slot, number)
        else:
            start = pages.place(number, need.ahead, self._claims())
        if start is None:
            self._take(held, range(end, end + begin))
            number -= begin
            start = pages.place(number, need.ahead, self._claims())
        if start is None:
            self._take(held, pages.scattered(number))
        else:
            self._take(held, range(start, start + number))
        self._set(slot, held)

    def _take(self, held: _Held, fresh: Iterable[int]) -> None:
        """Add these pages to a table."""
        for page in fresh:
            self._pages.take(page)
            held.table.append(page)

    def _relocate(self, slot: int, number: int) -> int | None:
        """Move a sequence to where it and `number` pages more lie in a row, and more would.

        Its first pages stay where they are, up to the last that others hold too. Returns where the
        new ones begin, None: there is no such place.
        """
        held, users = self._held[slot], self._pages.users
        shared = [place for place, page in enumerate(held.table, 1) if users[page] > 1]
        own = held.table[max(shared, default=0) :]
        need = Need(own, number, held.most - len(held.table) + len(own))
        start = self._pages.place(need.size, need.ahead, self._claims(), roomy=True)
        if start is None:
            return None
        moved = {page: start + place for place, page in enumerate(own)}
        for first, to, count in coalesced(moved):
            self.data[:, :, to : to + count] = self.data[:, :, first : first + count]
        for page, to in moved.items():
            self._filled[to] = self._filled[page]
            self._pages.take(to)
            self._pages.give(page)
        self.prefixes.move(moved)
        held.table = [moved.get(page, page) for page in held.table]
        return start + len(own)

    def _claims(self) -> dict[int, int]:
        """Return how many pages each sequence would like to have behind its last one."""
        return {
            held.table[-1] + 1: self._need(slot, 0).ahead
            for slot, held in self._held.items()
            if held.table
        }


def _size(size: int) -> str:
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 2**bits:
            return f"{size} bytes ({size / 2**bits:.4g} {unit})"
    return f"{size} bytes"


def _pages_of(rows: int) -> int:
    return -(-rows // KEY_TILE)


def tiled(rows: Tensor) -> Tensor:
    """Return [slots, kv_heads, n, head_dim] in pages, with zeros behind row n.

    They are [slots, pages, kv_heads, KEY_TILE, head_dim].
    """
    slots, kv_heads, count, dim = rows.shape
    tiles = -(-count // KEY_TILE)
    held = rows.new_zeros(slots, kv_heads, tiles * KEY_TILE, dim)
    held[:, :, :count] = rows
    return held.view(slots, kv_heads, tiles, KEY_TILE, dim).transpose(1, 2).contiguous()


def untiled(pages: Tensor) -> Tensor:
    """Return [slots, pages, kv_heads, KEY_TILE, head_dim] in rows.

    They are [slots, kv_heads, pages * KEY_TILE, head_dim].
    """
    slots, tiles, kv_heads, _, dim = pages.shape
    return pages.transpose(1, 2).reshape(slots, kv_heads, tiles * KEY_TILE, dim)
