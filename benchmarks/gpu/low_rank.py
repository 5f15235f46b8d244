"""How long an adapter of rank 128 takes beside the product for query, key and value."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import DIM, HEADS, HIDDEN, KV_HEADS, Case, copies_of, drawn, main

from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.low_rank import LowRankProducts, low_rank

RANK = 128


def cases(rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    target = Target.of(device)
    query, key = HEADS * DIM, KV_HEADS * DIM
    places = ((0, query), (query, key), (query + key, key))
    columns = (HEADS + 2 * KV_HEADS) * DIM
    read = (3 * RANK * HIDDEN + columns * RANK) * dtype.itemsize
    copies = copies_of(read)
    made = [
        LowRankProducts.of(
            [
                (
                    start,
                    drawn(RANK, HIDDEN, dtype=dtype, device=device),
                    drawn(out, RANK, dtype=dtype, device=device),
                    1.0,
                )
                for start, out in places
            ],
            columns,
        )
        for _ in range(copies)
    ]
    x = drawn(rows, HIDDEN, dtype=dtype, device=device)
    marks = torch.ones(rows, dtype=torch.int8, device=device)
    yield Case(
        "adapter of q, k, v",
        rows,
        read,
        copies,
        lambda copy: low_rank(x, made[copy], marks, target),
    )


if __name__ == "__main__":
    main(cases)
