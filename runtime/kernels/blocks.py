"""What products read at a time: a block of a weight, and the columns of rows that meet it."""

# ruff: noqa: N803  (Triton names compile-time values in capitals)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def read_of(place, ONCE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return what lies at `place`; what is read only ONCE leaves the caches first."""
    if ONCE:
        block = tl.load(place, cache_modifier=".cg", eviction_policy="evict_first")
    else:
        block = tl.load(place)
    return block


@triton.jit  # type: ignore[untyped-decorator]
def weight_block(  # type: ignore[no-untyped-def]
    w_ptr, out, column,
    WIDTH: tl.constexpr, STRIDE: tl.constexpr, BLOCK: tl.constexpr, ONCE: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """Return [N, BLOCK] of a weight; ONCE as in `read_of`."""
    place = w_ptr + out[:, None] * STRIDE + column[None, :]
    if WIDTH % BLOCK == 0:
        block = read_of(place, ONCE)
    else:
        block = tl.load(place, mask=(out >= 0)[:, None] & (column < WIDTH)[None, :], other=0.0)
    if UPCAST:
        block = block.to(tl.float32)
    return block


@triton.jit  # type: ignore[untyped-decorator]
def row_block(  # type: ignore[no-untyped-def]
    x_ptr, row, column, WIDTH: tl.constexpr, BLOCK: tl.constexpr, UPCAST: tl.constexpr
):
    """Return [BLOCK, R] of rows [., WIDTH]."""
    place = x_ptr + row[:, None] * WIDTH + column[None, :]
    if WIDTH % BLOCK == 0:
        block = tl.load(place, eviction_policy="evict_last")
    else:
        block = tl.load(place, mask=(row >= 0)[:, None] & (column < WIDTH)[None, :], other=0.0)
    if UPCAST:
        block = block.to(tl.float32)
    return tl.trans(block)
