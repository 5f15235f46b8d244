"""The pages that each sequence holds, in the order of its rows, and where its next ones lie.

The pool is taken as it is used, by half of what there is at a time, and given back when little of
it is. Pages of a sequence lie in a row wherever there is room for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from nldc.runtime.cache.pages import Need, Runs, arrangement, runs_of
from nldc.runtime.cache.pool import Pool
from nldc.runtime.errors import OutOfMemoryError
from nldc.runtime.invariant.line_tiles import KEY_TILE

FIRST_PAGES = 4
"""With how many pages a pool begins, unless it needs more."""


@dataclass(eq=False)
class Held:
    """The pages of a sequence in order, and how many it may need; `runs` are the same pages.

    `remembered` is what others know of them.
    """

    most: int
    table: list[int] = field(default_factory=list)
    runs: Runs = ()
    remembered: dict[int, Any] = field(default_factory=dict)


def pages_of(rows: int) -> int:
    """Return how many pages so many rows take."""
    return -(-rows // KEY_TILE)


class Holdings:
    """`held` are the pages of each slot, of a pool that never has more than `most_pages`.

    `promised` is how many the sequences may need together. `changed` is told of every slot whose
    pages are others than before. With `steady`, the pool has room for all that is promised, and
    stays as large as it is.
    """

    def __init__(
        self,
        pool: Pool,
        most_pages: int,
        changed: Callable[[int], None],
        *,
        steady: bool = False,
    ) -> None:
        self.held: dict[int, Held] = {}
        self.promised = 0
        self._pool = pool
        self._most = most_pages
        self._changed = changed
        self._steady = steady

    def open(self, slot: int, most: int) -> None:
        """Let a slot hold pages, none yet and at most so many."""
        self.held[slot] = Held(most)
        self.promised += most

    def close(self, slot: int) -> Held:
        """Let a slot hold nothing; return what it held, to be given back by `give_back`."""
        held = self.held.pop(slot)
        self.promised -= held.most
        return held

    def give_back(self, held: Held) -> None:
        """Give pages back, and memory if little of it is used then."""
        for page in reversed(held.table):
            self._pool.give(page)
        self._shrink()

    def adopt(self, slot: int, pages: Sequence[int]) -> None:
        """Let a slot begin with pages that are there, in place of its own first ones."""
        held = self.held[slot]
        for place, page in enumerate(pages):
            self._pool.use(page)
            if place < len(held.table):
                self._pool.give(held.table[place])
                held.table[place] = page
            else:
                held.table.append(page)
        self._set(slot, held)

    def missing(self, slot: int, length: int, end: int) -> int:
        """Return how many pages a slot lacks for `end` rows, of which those from `length` are new.

        Less than none: it has more. Pages of new rows that others see as well are copied.

        Raises:
            ValueError: the slot was not opened for so many.
            OutOfMemoryError: there is no memory for a copy.
        """
        held, pool = self.held[slot], self._pool
        pages = pages_of(end)
        if pages > held.most:
            raise ValueError(
                f"{end} rows exceed the {held.most * KEY_TILE} that the sequence was to have: "
                "SCRATCH_ROWS of the decoder is too small"
            )
        written = range(length // KEY_TILE, min(pages, len(held.table)))
        if any(pool.is_shared(held.table[place]) for place in written):
            self._own(held, slot, written)
        return pages - len(held.table)

    def grow(self, missing: dict[int, int]) -> None:
        """Add so many pages to each slot; all pages may move.

        Raises:
            OutOfMemoryError: there is no memory.
        """
        self._make_room(missing)
        for slot, number in missing.items():
            self._extend(slot, number)

    def _set(self, slot: int, held: Held) -> None:
        """Note that the table of a slot is another."""
        held.runs = runs_of(held.table)
        held.remembered.clear()
        self._changed(slot)

    def _own(self, held: Held, slot: int, places: Iterable[int]) -> None:
        """Let a sequence have these pages of its table for itself: copies, if others hold them."""
        pool = self._pool
        for place in places:
            page = held.table[place]
            if pool.pages.users[page] == 1:
                pool.prefixes.forget(page)
                continue
            self._make_room({slot: 1})
            held.table[place] = pool.copied(held.table[place])
            self._set(slot, held)

    def _make_room(self, missing: dict[int, int]) -> None:
        """Let there be free pages for what is missing, of each slot; pages may move."""
        pool = self._pool
        wanted = sum(missing.values())
        if wanted <= pool.pages.free:
            return
        pool.drop_kept(wanted, self._most)
        if wanted <= pool.pages.free:
            return
        needed = pool.pages.used + wanted
        promised = self.promised + len(pool.prefixes.idle)
        roomy = pool.size + pool.size // 2
        if self._steady:
            comfortable = max(needed, min(self._most, max(promised, roomy, FIRST_PAGES)))
        else:
            comfortable = max(needed, min(self._most, promised, max(roomy, FIRST_PAGES)))
        try:
            fresh = pool.memory(comfortable)
        except OutOfMemoryError:
            if comfortable == needed:
                raise
            fresh = pool.memory(needed)
        self._move_to(fresh, missing)

    def _shrink(self) -> None:
        """Give memory back if little of it is used."""
        pool = self._pool
        if self._steady:
            return
        used = pool.pages.used
        count = max(used + used // 2, FIRST_PAGES) if used else 0
        if count < pool.size and used * 3 <= pool.size:
            try:
                fresh = pool.memory(count)
            except OutOfMemoryError:  # not even for that: what there is will do
                return
            self._move_to(fresh, {})

    def _move_to(self, fresh: Tensor, missing: dict[int, int]) -> None:
        """Let the pages lie in a pool with other room, those of a sequence in a row."""
        needs = [self._need(slot, missing.get(slot, 0)) for slot in self.held]
        moved = arrangement(needs, self._pool.prefixes.idle, fresh.shape[2])
        self._pool.move_to(fresh, moved)
        for slot, held in self.held.items():
            held.table = [moved[page] for page in held.table]
            self._set(slot, held)

    def _need(self, slot: int, missing: int) -> Need:
        held = self.held[slot]
        return Need(held.table, missing, held.most)

    def _extend(self, slot: int, number: int) -> None:
        """Add free pages to a slot: behind those that it has, or in a row elsewhere, or anywhere.

        A sequence moves only to where it may grow by half, so that all moves together copy a few
        times what it ends with.
        """
        held, pages = self.held[slot], self._pool.pages
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

    def _take(self, held: Held, fresh: Iterable[int]) -> None:
        """Add these pages to a table."""
        for page in fresh:
            self._pool.pages.take(page)
            held.table.append(page)

    def _relocate(self, slot: int, number: int) -> int | None:
        """Move a sequence to where it and `number` pages more lie in a row, and more would.

        Its first pages stay where they are, up to the last that others hold too. Returns where the
        new ones begin, None: there is no such place.
        """
        held, pages = self.held[slot], self._pool.pages
        shared = [place for place, page in enumerate(held.table, 1) if pages.users[page] > 1]
        own = held.table[max(shared, default=0) :]
        need = Need(own, number, held.most - len(held.table) + len(own))
        start = pages.place(need.size, need.ahead, self._claims(), roomy=True)
        if start is None:
            return None
        moved = {page: start + place for place, page in enumerate(own)}
        self._pool.move(moved)
        held.table = [moved.get(page, page) for page in held.table]
        return start + len(own)

    def _claims(self) -> dict[int, int]:
        """Return how many pages each sequence would like to have behind its last one."""
        return {
            held.table[-1] + 1: self._need(slot, 0).ahead
            for slot, held in self.held.items()
            if held.table
        }
