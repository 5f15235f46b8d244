"""How attention is cut into programs: what decides a row's bits, and what only decides the time.

A row's keys are weighed a page at a time, each page by itself; `CHUNK` pages, counted from the
sequence's first key, are joined one after another to a chunk, and chunks one after another to the
result. That tree is the same for every forward, so a row's bits depend on the keys that it sees
alone. Which branches of it a program takes on, and for how many rows, is chosen by the shape of the
forward: a page, a chunk, or all of a row's keys.

The tiles are those that measured best on an H200 (8B shape, bfloat16) for 4, 8, 16 and 32 rows of
four heads; there too, results of every page were too dear to write down for many rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from nldc.runtime.invariant.line_tiles import KEY_TILE

CHUNK = 8
"""Pages of a chunk."""
FULL = 128
"""Programs that keep a device busy: those of today have 108 to 148 multiprocessors."""
LEAST = 16
"""The least rows and columns of a product."""


@dataclass(frozen=True)
class Tile:
    """The lines of a program, and how it is compiled. A line is a row and one of its heads.

    Only where `whole`, a program may take on all keys of its rows.
    """

    lines: int
    warps: int
    stages: int
    whole: bool = True


@dataclass(frozen=True)
class Division:
    """The programs of a launch: `tiles` of lines times `units` of `span` keys, for each key head.

    `span` 0: a program takes on all keys of its rows, there is one unit, and no other launch.
    """

    tile: Tile
    tiles: int
    units: int
    span: int

    @property
    def partial(self) -> bool:
        """Whether a row's keys are shared by several programs, and a second launch joins them."""
        return self.span > 0

    @property
    def chunked(self) -> bool:
        """Whether such a program takes on a chunk, not a page."""
        return self.span > KEY_TILE

    def programs(self, pairs: int) -> int:
        """Return how many there are for so many pairs of a sequence and a key head."""
        return self.tiles * self.units * pairs


def block_of(head_dim: int) -> int:
    """Return the features that a program computes with: a power of two, not below a product's."""
    return max(LEAST, 1 << (head_dim - 1).bit_length())


def half_of(head_dim: int, size: int) -> int:
    """Return the features of which values are summed at a time: half of many, to save registers."""
    block = block_of(head_dim)
    return block // 2 if block >= 128 and size <= 2 else block


def tiles_for(head_dim: int, size: int) -> tuple[Tile, ...]:
    """Return the tiles that a launch may have, the smallest first, for values of `size` bytes.

    No compiler spills with these for compute capability 8.0, 9.0, and 10.0, but a few words in a
    program of 128 lines and all keys, once a chunk. Values of four bytes are computed without
    tensor cores, in so many registers that such a program would spill in earnest.
    """
    if size > 2:
        return (Tile(16, 8, 1, whole=False),)
    if block_of(head_dim) > 128:
        return (Tile(16, 4, 1), Tile(32, 8, 1))
    return (Tile(16, 4, 2), Tile(32, 4, 2), Tile(128, 8, 2))


def divide(
    rows: int, group: int, batch: int, kv_heads: int, head_dim: int, size: int, max_keys: int
) -> Division:
    """Return the programs for `batch` sequences of so many rows.

    `group` query heads share a key head, values have `size` bytes, and no sequence has more than
    `max_keys` keys, its own rows counted. A program takes on as much as leaves the device busy.
    """
    lines = rows * group
    known = tiles_for(head_dim, size)
    tile = next((one for one in known if one.lines >= lines), known[-1])
    tiles = -(-lines // tile.lines)
    programs = tiles * batch * kv_heads
    pages = -(-max_keys // KEY_TILE)
    chunks = -(-pages // CHUNK)
    busy = programs * chunks >= FULL // 2
    if tile.whole and (pages == 1 or programs >= FULL or (busy and chunks == 1)):
        return Division(tile, tiles, 1, 0)
    if busy:
        return Division(tile, tiles, chunks, CHUNK * KEY_TILE)
    return Division(tile, tiles, pages, KEY_TILE)
