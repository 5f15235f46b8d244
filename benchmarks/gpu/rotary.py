"""How long rotation takes, with the write of keys and values into pages."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import DIM, HEADS, HIDDEN, KV_HEADS, Case, drawn, main

from nldc.runtime.invariant.line_tiles import KEY_TILE
from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.product import FEW, segments_of
from nldc.runtime.kernels.rotary import Heads, Pages, rotary

PREFIX = 1024


def cases(rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    target = Target.of(device)
    width = (HEADS + 2 * KV_HEADS) * DIM
    count = segments_of(width, HIDDEN) if rows <= FEW else 1
    parts = drawn(count, rows, width, dtype=torch.float32, device=device)
    positions = torch.arange(PREFIX, PREFIX + rows, device=device)
    angles = drawn(2, PREFIX + rows, DIM, dtype=torch.float32, device=device)
    most = -(-(PREFIX + rows) // KEY_TILE)
    table = torch.randperm(most, device=device).int().view(1, most)
    zero, length = torch.zeros(1, dtype=torch.int64, device=device), positions[:1].clone()
    keys, values = drawn(2, most, KV_HEADS, KEY_TILE, DIM, dtype=dtype, device=device)
    heads, pages = Heads(HEADS, KV_HEADS, DIM, KEY_TILE), Pages(table, zero, length)
    yield Case(
        f"rotary of {count}",
        rows,
        parts.nbytes,
        2,
        lambda _: rotary(parts, positions, *angles, pages, keys, values, heads, target),
    )


if __name__ == "__main__":
    main(cases)
