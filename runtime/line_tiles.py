"""How many lines a product of attention may have: those that give a line the same bits.

Attention computes its lines in products of fixed shape. Larger ones are quicker where there are
many lines and slower where there are few, so which sizes agree bit for bit is tried here, on this
machine, and each run of lines is then cut into the sizes that suit it.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from nldc.runtime.kv_cache import KEY_TILE

LEAST = 16
"""Lines of the smallest product; what others are held against."""
LARGER = (64, 32)
BATCHES = (1, 2, 3, 12, 50)
"""How many products a trial computes at once."""


@cache
def line_tiles(dim: int, dtype: torch.dtype, device: torch.device, threads: int) -> tuple[int, ...]:
    """Return the sizes that agree with `LEAST`, largest first, for heads of `dim` features.

    What is found is true of so many `threads`.
    """
    del threads
    agreeing = (size for size in LARGER if _agrees(size, dim, dtype, device))
    return (*agreeing, LEAST)


def cut(lines: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of the products that hold so many lines.

    A product may have up to a quarter of its lines to spare.
    """
    found: list[int] = []
    left = -(-lines // LEAST) * LEAST
    while left > 0:
        roomy = [size for size in sizes if left <= size <= left + size // 4]
        found.append(min(roomy, default=max(size for size in sizes if size <= max(left, LEAST))))
        left -= found[-1]
    return tuple(found)


def _agrees(size: int, dim: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a line has the same bits in products of `size` lines and of `LEAST`."""
    generator = torch.Generator().manual_seed(0)
    for inner, outer in ((dim, KEY_TILE), (KEY_TILE, dim)):
        for batch in BATCHES:
            left = _cancelling((batch, size, inner), generator, sign=-1)
            right = _cancelling((batch, outer, inner), generator, sign=1).transpose(1, 2)
            left, right = left.to(device, dtype), right.contiguous().to(device, dtype)
            whole = torch.bmm(left, right)
            parts = [torch.bmm(part, right) for part in torch.split(left, LEAST, 1)]
            if not torch.equal(whole, torch.cat(parts, 1)):
                return False
    return True


def _cancelling(shape: tuple[int, int, int], generator: torch.Generator, sign: int) -> Tensor:
    """Return [batch, n, inner] whose products with those of the other sign are zero but for
    rounding, which any other order of sums changes.
    """
    *outer, inner = shape
    half = torch.randn(*outer, inner // 2, generator=generator)
    middle = torch.zeros(*outer, inner % 2)
    return torch.cat((half, middle, half * sign), -1)
