"""How long the products of a layer take whose parts are summed up behind them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import DIM, HEADS, HIDDEN, KV_HEADS, MLP, Case, copies_of, drawn, main

from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.product import Matrix, product

WEIGHTS = {
    "query, key, value": ((HEADS + 2 * KV_HEADS) * DIM, HIDDEN),
    "output": (HIDDEN, HEADS * DIM),
    "down": (HIDDEN, MLP),
}


def cases(rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    target = Target.of(device)
    for name, (out, width) in WEIGHTS.items():
        size = out * width * dtype.itemsize
        copies = copies_of(size)
        data = drawn(copies, out, width, dtype=dtype, device=device)
        weights = [Matrix(one, out, width) for one in data]
        x = drawn(rows, width, dtype=dtype, device=device)
        yield Case(
            name, rows, size, copies, lambda copy, x=x, w=weights: product(x, w[copy], target)
        )


if __name__ == "__main__":
    main(cases)
