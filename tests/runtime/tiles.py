"""Rows as a cache holds them, in pages, and back."""

from __future__ import annotations

from torch import Tensor

from nldc.runtime.invariant.line_tiles import KEY_TILE


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
