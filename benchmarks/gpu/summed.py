"""How long sum, residual and norm take, of as many parts as the products leave."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timing import HIDDEN, Case, drawn, main

from nldc.runtime.kernels.launchable import Target
from nldc.runtime.kernels.product import FEW, segments_of
from nldc.runtime.kernels.summed import added_normed


def cases(rows: int, dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
    target = Target.of(device)
    count = segments_of(HIDDEN, HIDDEN) if rows <= FEW else 1
    parts = drawn(count, rows, HIDDEN, dtype=torch.float32, device=device)
    states, gamma = (drawn(*s, dtype=dtype, device=device) for s in ((rows, HIDDEN), (HIDDEN,)))
    read = parts.nbytes + states.nbytes
    yield Case(
        f"sum of {count}, norm",
        rows,
        read,
        2,
        lambda _: added_normed(parts, states, gamma, 1e-5, target),
    )


if __name__ == "__main__":
    main(cases)
