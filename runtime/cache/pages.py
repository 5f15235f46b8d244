"""Which pages of a pool are used, by how many, and where the next ones of a sequence should lie.

Nothing here knows what a page holds. A sequence's pages are read as one piece of memory where they
lie one after another, so that is how they are placed wherever there is room for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Runs = tuple[tuple[int, int], ...]
"""Pages that lie one after another: the first of each run, and how many."""


@dataclass(frozen=True)
class Need:
    """What a sequence holds, how many pages it needs now besides, and how many it may at most."""

    table: Sequence[int]
    missing: int
    most: int

    @property
    def size(self) -> int:
        """The number of pages that it will hold."""
        return len(self.table) + self.missing

    @property
    def ahead(self) -> int:
        """How many pages it would like to find free behind those: half of what it has."""
        return max(0, min(self.most - self.size, self.size // 2 + 1))


class Pages:
    """The pages of a pool, numbered from 0; `users` says how many hold each."""

    def __init__(self) -> None:
        self.users: list[int] = []
        self.used = 0

    @property
    def free(self) -> int:
        """The number of pages that nobody holds."""
        return len(self.users) - self.used

    def take(self, page: int) -> None:
        """Let one more hold a page."""
        self.used += not self.users[page]
        self.users[page] += 1

    def give(self, page: int) -> bool:
        """Let one fewer hold a page; return whether nobody does now.

        Raises:
            ValueError: nobody held it.
        """
        if not self.users[page]:
            raise ValueError(f"page {page} is held by nobody")
        self.users[page] -= 1
        self.used -= not self.users[page]
        return not self.users[page]

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Yield the runs of free pages, each with the page behind it."""
        first: int | None = None
        for page, users in enumerate(self.users):
            if users:
                if first is not None:
                    yield first, page
                first = None
            elif first is None:
                first = page
        if first is not None:
            yield first, len(self.users)

    def free_from(self, page: int, number: int) -> int:
        """Return how many of so many pages from `page` on are free, up to the first that is not."""
        users = self.users[page : page + number]
        return next((count for count, held in enumerate(users) if held), len(users))

    def place(
        self, number: int, ahead: int, claims: Mapping[int, int], *, roomy: bool = False
    ) -> int | None:
        """Return where so many pages fit in a row, None: nowhere.

        `claims` says, by the first page of a gap, how many pages the sequence before it would like
        to have. The tightest gap with `ahead` pages more than that is taken; otherwise, but for
        `roomy`, the largest.
        """
        best: tuple[bool, int] | None = None
        start = None
        for first, end in self.gaps():
            spare = end - first - number
            if spare < 0:
                continue
            claimed = min(claims.get(first, 0), spare)
            left = spare - claimed
            rank = (left < ahead, left if left >= ahead else -left)
            if rank[0] and roomy:
                continue
            if best is None or rank < best:
                best, start = rank, first + claimed
        return start

    def scattered(self, number: int) -> list[int]:
        """Return so many free pages, wherever they are."""
        free = [page for page, users in enumerate(self.users) if not users]
        return free[:number]

    def resize(self, count: int, moved: Mapping[int, int]) -> None:
        """Become a pool of `count` pages, in which page `moved[p]` holds what page p did."""
        users = [0] * count
        for old, new in moved.items():
            users[new] = self.users[old]
        self.users = users


def arrangement(needs: Iterable[Need], others: Iterable[int], count: int) -> dict[int, int]:
    """Return new places, in a pool of `count` pages, for all that are held.

    Each sequence has its pages in a row as far as they are not another's too, behind them those
    that it needs, and of what is left as much as its size deserves. `others` come last.
    """
    needs = sorted(needs, key=lambda need: list(need.table))
    others = list(others)
    held = {page for need in needs for page in need.table} | set(others)
    left = count - len(held) - sum(need.missing for need in needs)
    total = sum(need.size for need in needs)
    moved: dict[int, int] = {}
    place = 0
    for need in needs:
        for page in need.table:
            if page not in moved:
                moved[page] = place
                place += 1
        place += need.missing + min(need.most - need.size, left * need.size // max(total, 1))
    for page in others:
        if page not in moved:
            moved[page] = place
            place += 1
    return moved


def runs_of(table: Sequence[int]) -> Runs:
    """Return the pages of a table as runs."""
    runs: list[tuple[int, int]] = []
    for page in table:
        if runs and page == sum(runs[-1]):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((page, 1))
    return tuple(runs)


def coalesced(moved: Mapping[int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield moves of pages that stay in a row: the first page, its new place, how many."""
    first, to, count = 0, 0, 0
    for old, new in sorted(moved.items()):
        if count and old == first + count and new == to + count:
            count += 1
            continue
        if count:
            yield first, to, count
        first, to, count = old, new, 1
    if count:
        yield first, to, count
