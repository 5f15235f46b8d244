"""How attention cuts its lines into products, such that a line has the same bits in each.

Attention computes its lines in products of fixed shape: so many lines, one tile of keys. Two things
about them are free. Larger products are quicker where there are many lines and slower where there
are few, so sizes that agree bit for bit may be mixed. And a library computes many products at once,
in an order of sums that may depend on how many: then every batch has one number of them. What holds
is tried here, on this machine, the quickest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

KEY_TILE = 64
"""Keys of a product: rows of the cache that lie together."""
LEAST = 16
"""Lines of the smallest product; what others are held against."""
LARGER = (64, 32)
ON_A_DEVICE = 64
"""Lines of every product on a GPU, which has more arithmetic than it has memory."""
AT_ONCE = 16
"""Tiles of a batch of fixed size, each with a product for every key head."""
BY_HAND = -1
"""In place of a number of products: a feature after the other, where no library's product holds."""
TILES = (1, 2, 3, 12, 15, 16, 17, 50)
"""Numbers of tiles that a trial computes at once."""


@dataclass(frozen=True)
class Cut:
    """The products of attention: `sizes` are the lines that one may have, largest first.

    `at_once` is the number of products in every batch, 0 for as many as there are; with `BY_HAND`
    no library computes them, which is slow, and holds by construction. With `trees`,
    softmax and sums over tiles are computed by hand too, in an order that no width can change.
    """

    sizes: tuple[int, ...]
    at_once: int = 0
    trees: bool = False


@cache
def line_cut(
    kv_heads: int, dim: int, dtype: torch.dtype, device: torch.device, threads: int
) -> Cut:
    """Return the quickest cut that was found to hold, for heads of `dim` features.

    What is found is true of so many `threads`.
    """
    del threads
    for at_once in (0, AT_ONCE * kv_heads) if device.type == "cpu" else (AT_ONCE * kv_heads,):
        least = LEAST if device.type == "cpu" else ON_A_DEVICE
        trial = _Trial(kv_heads, dim, dtype, device, at_once, least)
        if trial.agrees(least):
            larger = (size for size in LARGER if size > least and trial.agrees(size))
            return Cut((*larger, least), at_once, trees=device.type != "cpu")
    return Cut((least,), BY_HAND, trees=device.type != "cpu")


def cut(lines: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of the products that hold so many lines.

    A product may have up to a quarter of its lines to spare, the smallest any number.
    """
    found: list[int] = []
    least = sizes[-1]
    left = -(-lines // least) * least
    while left > 0:
        roomy = [size for size in sizes if left <= size <= left + size // 4]
        found.append(min(roomy, default=max(size for size in sizes if size <= left)))
        left -= found[-1]
    return tuple(found)


def products(left: Tensor, right: Tensor, at_once: int) -> Tensor:
    """Return the n products `torch.bmm(left, right)`, in batches of `at_once` exactly (0: of n;
    `BY_HAND`: sums of products of single features, which know nothing of other lines).

    The last batch reaches back over products that were there already, which changes no bits.
    """
    have = left.shape[0]
    if at_once == BY_HAND:
        return _by_hand(left, right)
    if not at_once:
        return torch.bmm(left, right)
    if have < at_once:
        return torch.bmm(_filled(left, at_once), _filled(right, at_once))[:have]
    found = left.new_empty(have, left.shape[1], right.shape[2])
    for first in range(0, have, at_once):
        start = min(first, have - at_once)
        own = slice(start, start + at_once)
        torch.bmm(left[own], right[own], out=found[own])
    return found


def _by_hand(left: Tensor, right: Tensor) -> Tensor:
    wide = torch.promote_types(left.dtype, torch.float32)
    left_, right_ = left.to(wide), right.to(wide)
    found = left_.new_zeros(left.shape[0], left.shape[1], right.shape[2])
    for inner in range(left.shape[2]):
        found += left_[:, :, inner : inner + 1] * right_[:, inner : inner + 1]
    return found.to(left.dtype)


def _filled(matrices: Tensor, count: int) -> Tensor:
    """Return [count, n, m], zeros behind, each laid out in memory as the matrices are."""
    if matrices.stride(2) > matrices.stride(1):
        return _filled(matrices.mT, count).mT
    found = matrices.new_zeros(count, *matrices.shape[1:])
    found[: matrices.shape[0]] = matrices
    return found


class _Trial:
    """Products whose exact value is zero, as attention makes them, and their bits at `least` lines.

    What is computed is rounding alone, so that any other order of sums shows. Keys are a view of
    what the cache holds, features last; values lie as they are.
    """

    def __init__(
        self,
        kv_heads: int,
        dim: int,
        dtype: torch.dtype,
        device: torch.device,
        at_once: int,
        least: int,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.at_once = at_once
        self.unit = kv_heads if at_once else 1
        self.cases: list[tuple[Tensor, Tensor, Tensor]] = []
        count, lines = TILES[-1] * self.unit, max(*LARGER, least)
        for inner, outer, is_keys in ((dim, KEY_TILE, True), (KEY_TILE, dim, False)):
            left = _cancelling((count, lines, inner), generator, sign=-1).to(device, dtype)
            right = _cancelling((count, outer, inner), generator, sign=1).to(device, dtype).mT
            if not is_keys:
                right = right.contiguous()
            parts = [self._bits(part, right) for part in torch.split(left, least, 1)]
            self.cases.append((left, right, torch.cat(parts, 1)))

    def agrees(self, size: int) -> bool:
        """Whether a line has those bits in products of `size` lines: at any place, beside any
        number of tiles, and wherever in memory they lie.
        """
        for left, right, want in self.cases:
            for tiles in TILES:
                have = tiles * self.unit
                for moved, some in ((0, slice(0, have)), (1, slice(-have, None)), (5, slice(have))):
                    lines = torch.split(left[some].roll(moved, 1), size, 1)
                    found = torch.cat([self._bits(part, right[some]) for part in lines], 1)
                    if not torch.equal(found.roll(-moved, 1), want[some]):
                        return False
        return True

    def _bits(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the products of lines that were copied to memory of their own."""
        return products(left.clone(memory_format=torch.contiguous_format), right, self.at_once)


def _cancelling(shape: tuple[int, int, int], generator: torch.Generator, sign: int) -> Tensor:
    """Return [batch, n, inner] whose products with those of the other sign are zero but for
    rounding, which any other order of sums changes: they have digits to spare in every dtype.
    """
    *outer, inner = shape
    half = torch.randn(*outer, inner // 2, generator=generator, dtype=torch.float64)
    middle = half.new_zeros(*outer, inner % 2)
    return torch.cat((half, middle, half * sign), -1)
