"""The memory of pages: what lies in each, who holds it, and the names of those that may be shared.

Nothing here knows sequences. Pages that nobody uses may be kept for a while, in case one begins
like the sequence that they were of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nldc.runtime.cache.pages import Pages, coalesced
from nldc.runtime.cache.prefix import Prefixes
from nldc.runtime.checkpoint.config import ModelConfig
from nldc.runtime.errors import OutOfMemoryError
from nldc.runtime.invariant.line_tiles import KEY_TILE


class Pool:
    """`data` is [2, layers, pages, kv_heads, KEY_TILE, head_dim]: keys, then values.

    `keys[layer]` and `values[layer]` are views of it. `pages` says how many hold each, `filled` up
    to which row it was ever written. At most `keep` pages that nobody uses are kept.
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, keep_bytes: int
    ) -> None:
        self._layers = config.num_layers
        self._page = (config.num_kv_heads, KEY_TILE, config.head_dim)
        self._dtype = dtype
        self._device = device
        self.page_bytes = 2 * self._layers * math.prod(self._page) * dtype.itemsize
        self.keep = keep_bytes // self.page_bytes
        self.pages = Pages()
        self.prefixes = Prefixes()
        self.filled: list[int] = []
        self._hold(self.memory(0))

    @property
    def size(self) -> int:
        """The number of pages that there is memory for."""
        return len(self.pages.users)

    def memory(self, pages: int) -> Tensor:
        """Return memory for so many pages, all zeros.

        Raises:
            OutOfMemoryError: there is none.
        """
        shape = (2, self._layers, pages, *self._page)
        try:
            with torch.inference_mode(False):  # it outlives forwards, and is written outside
                return torch.zeros(shape, dtype=self._dtype, device=self._device)
        except (RuntimeError, MemoryError) as problem:  # also sizes beyond what torch can count
            wanted = math.prod(shape) * self._dtype.itemsize
            raise OutOfMemoryError(
                f"there is no memory for the keys and values of {pages * KEY_TILE} tokens: "
                f"{shown_size(wanted)} on {self._device}",
                "use a smaller batch_size, a smaller max_new_tokens, or a smaller dtype",
            ) from problem

    def _hold(self, data: Tensor) -> None:
        self.data = data
        self.keys: tuple[Tensor, ...] = data[0].unbind()
        self.values: tuple[Tensor, ...] = data[1].unbind()

    # Who holds a page

    def use(self, page: int) -> None:
        """Let one more sequence hold a page that others use, or that was only kept."""
        if not self.prefixes.wake(page):
            self.pages.take(page)

    def give(self, page: int) -> None:
        """Let a sequence hold a page no more; one that has a name may be kept."""
        if not self.pages.give(page):
            return
        if page in self.prefixes and self.keep:
            self.pages.take(page)
            self.prefixes.rest(page)
            idle = self.prefixes.idle
            for old in idle[: max(0, len(idle) - self.keep)]:
                self._drop(old)
        else:
            self.prefixes.forget(page)

    def is_shared(self, page: int) -> bool:
        """Whether others see a page, or may come to see it."""
        return page in self.prefixes or self.pages.users[page] > 1

    def drop_kept(self, wanted: int, most: int) -> None:
        """Give up pages that are only kept, as far as `wanted` more of at most `most` need it."""
        idle = list(self.prefixes.idle)
        while self.pages.used + wanted > most and idle:
            self._drop(idle.pop(0))

    def _drop(self, page: int) -> None:
        self.prefixes.forget(page)
        self.pages.give(page)

    # What lies in a page

    def claim(self, page: int, row: int) -> None:
        """Prepare a page of which the first `row` rows will be read: zeros lie behind them."""
        if (stale := self.filled[page]) > row:
            self.data[:, :, page, :, row:stale] = 0
        self.filled[page] = row

    def copied(self, page: int) -> int:
        """Return a free page that holds what a shared one does; it is held in its place."""
        fresh = self.pages.scattered(1)[0]
        self.pages.take(fresh)
        self.data[:, :, fresh] = self.data[:, :, page]
        self.filled[fresh] = self.filled[page]
        self.pages.give(page)
        return fresh

    def move(self, moved: Mapping[int, int]) -> None:
        """Let pages that one sequence holds lie in other, free places."""
        for first, to, count in coalesced(moved):
            self.data[:, :, to : to + count] = self.data[:, :, first : first + count]
        for page, to in moved.items():
            self.filled[to] = self.filled[page]
            self.pages.take(to)
            self.pages.give(page)
        self.prefixes.move(moved)

    def move_to(self, fresh: Tensor, moved: Mapping[int, int]) -> None:
        """Let all pages lie in other memory, at places of it."""
        count = fresh.shape[2]
        for first, to, number in coalesced(moved):
            fresh[:, :, to : to + number] = self.data[:, :, first : first + number]
        filled = [0] * count
        for old, new in moved.items():
            filled[new] = self.filled[old]
        self.filled = filled
        self.pages.resize(count, moved)
        self.prefixes.move(moved)
        self._hold(fresh)


def shown_size(size: int) -> str:
    """Return a number of bytes in words, in the unit that fits as well."""
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 2**bits:
            return f"{size} bytes ({size / 2**bits:.4g} {unit})"
    return f"{size} bytes"
